// The photo: chosen, dropped, pasted, taken by the camera, or one of the examples.

import * as talk from "./talk.js";

const by = (id) => document.getElementById(id);
const TYPES = ["image/jpeg", "image/png", "image/webp"];
let camera = null;
let choice = 0;  // the newest counts, whichever upload ends last

export const current = { photo: null };

// `onPhoto` is told of a new photo, `onProblem` of what went wrong, `onStatus` of what goes on.
export function begin(examples, most, onPhoto, onProblem, onStatus) {
  const show = (photo) => {
    choice += 1;
    current.photo = photo;
    stopCamera();
    by("photo-view").src = photo.view;
    by("photo-view").hidden = false;
    by("drop-hint").hidden = true;
    for (const button of by("examples").children)
      button.setAttribute("aria-pressed", String(button.dataset.photo === photo.photo));
    onPhoto(photo);
  };
  const take = async (file) => {
    onProblem("");
    if (file.size > most * 1e6) {
      onProblem(`This photo has ${(file.size / 1e6).toFixed(1)} MB; up to ${most} MB are taken: make it smaller.`);
      return;
    }
    onStatus("Uploading the photo ...");
    const own = choice += 1;
    try {
      const photo = await talk.upload(file);
      if (own !== choice) return;
      show(photo);
      onStatus("Now say what happens next.");
    } catch (error) {
      if (own !== choice) return;
      onStatus("");
      onProblem(error.message);
    }
  };

  for (const example of examples) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    button.dataset.photo = example.photo;
    button.setAttribute("aria-pressed", "false");
    image.src = example.view;
    image.alt = `Example ${example.name}`;
    button.append(image);
    button.addEventListener("click", () => { onProblem(""); show(example); });
    by("examples").append(button);
  }

  by("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) take(file);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  const drop = by("drop");
  for (const name of ["dragover", "dragleave", "drop"])
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  by("camera-button").addEventListener("click", () => (camera ? snap(take) : startCamera(onProblem)));
  return show;
}

async function startCamera(onProblem) {
  onProblem("");
  try {
    if (!navigator.mediaDevices) throw new Error("no camera");
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    onProblem("The camera cannot be used: allow it in the browser, or choose a photo. Browsers show a camera to pages on this machine or over https alone.");
    return;
  }
  by("camera").srcObject = camera;
  by("camera").hidden = false;
  by("photo-view").hidden = true;
  by("drop-hint").hidden = true;
  by("camera-button").textContent = "Take the photo";
}

function snap(take) {
  const video = by("camera");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => { stopCamera(); if (blob) take(blob); }, TYPES[0], 0.95);
}

function stopCamera() {
  for (const track of camera?.getTracks() ?? []) track.stop();
  camera = null;
  by("camera").hidden = true;
  by("camera-button").textContent = "Use the camera";
  if (current.photo) by("photo-view").hidden = false;
}
