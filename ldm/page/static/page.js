// The page: what its form asks for, requests, and links that fill the form in.

import * as frames from "./frames.js";
import * as photo from "./photo.js";
import * as talk from "./talk.js";

const by = (id) => document.getElementById(id);
const FIELDS = ["action", "description", "seed", "count", "preset", "cfg_text", "cfg_image", "steps", "resolution", "scheduler"];
const NUMBERS = ["seed", "cfg_text", "cfg_image", "steps", "resolution"];
let known = null;
let job = null;
let drawing = false;
let stop = false;
let written = "";  // by stage 1, as it was
let aside = "";  // what a person or a link wrote, while stage 1 writes
let untouched = {};  // the form as it was at first
const SCALES = ["cfg_text", "cfg_image"];
const moved = new Set();  // scales that a person or a link has set; each checkpoint has its own of the others

const status = (text) => { by("status").textContent = text; };
const problem = (text) => {
  by("problem").textContent = text;
  by("problem").hidden = !text;
};
const lines = () => [...new Set(by("action").value.split("\n").map((line) => line.trim()).filter(Boolean))];
const methods = () => {
  const chosen = [...document.querySelectorAll("#methods input:checked")].map((box) => box.value);
  return chosen.length ? chosen : [known.methods[0].name];
};

function setUp() {
  by("version").textContent = known.version;
  by("limits").textContent = `Up to ${known.limits.mb} MB and ${known.limits.megapixels} megapixels.`;
  by("preset").value = known.preset;
  by("resolution").max = known.limits.side;
  by("resolution").placeholder = known.methods[0].size;
  by("steps").max = known.limits.steps;
  by("count").max = Math.min(8, known.limits.frames);
  by("describe").hidden = !known.stage_one;
  by("description-hint").textContent = known.stage_one
    ? "Left empty, stage 1 looks at the photo and writes it. Edit it, and the frame follows."
    : "Stage 1 is not loaded: type how it is done, or leave it empty to draw from the action alone.";
  const [main] = known.methods;
  limit("cfg_text", main.text_guidance);
  limit("cfg_image", main.image_guidance);
  for (const name of SCALES) if (main[name] !== null) hold(by(name), main[name]);
  if (main.steps) by("steps").placeholder = main.steps;
  if (known.methods.length > 1) {
    by("methods").hidden = false;
    for (const [place, method] of known.methods.entries()) {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = method.name;
      box.checked = place === 0;
      label.append(box, ` ${method.name}`);
      by("methods").append(label);
    }
  }
}

// What stage 1 wrote belongs to the photo and action that it was written for; what a person wrote stays.
function forget() {
  if (by("description").value === written) by("description").value = "";
}

function begun(name) {
  job = name;
  if (stop) talk.cancel(job).catch(() => {});
}

// A distilled checkpoint draws within its own guidance alone.
function limit(id, range) {
  if (!range) return;
  const [low, high] = range;
  Object.assign(by(id), { min: low, max: high, value: Math.min(Math.max(by(id).value, low), high) });
  by(id).disabled = low === high;
}

function hold(slider, stated) {
  const { min, max } = slider;
  Object.assign(slider, { min: Math.min(min, stated), max: Math.max(max, stated), value: stated });
}

function suggest(actions) {
  by("suggestions").replaceChildren(...actions.map((action) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = action;
    button.addEventListener("click", () => {
      by("action").value = action;
      forget();
      by("action").focus();
    });
    return button;
  }));
}

function settings(action, method, seed) {
  const one = { action, method, seed, preset: by("preset").value };
  const description = by("description").value.trim();
  if (description && lines().length === 1) one.description = description;
  for (const name of ["cfg_text", "cfg_image", "steps", "resolution"])
    if (by(name).value !== "" && (!SCALES.includes(name) || moved.has(name))) one[name] = Number(by(name).value);
  if (by("scheduler").value) one.scheduler = by("scheduler").value;
  return one;
}

function ready() {
  problem("");
  if (!photo.current.photo) problem("First choose a photo, or pick one of the scenes.");
  else if (!lines().length) problem("First write an action, such as: open the drawer.");
  else {
    const wrong = ["seed", "count", "steps", "resolution"].map(by).find((field) => !field.checkValidity());
    if (!wrong) return true;
    wrong.closest("details")?.setAttribute("open", "");
    problem(`${wrong.closest("label").firstChild.textContent.trim()}: ${wrong.validationMessage}`);
    wrong.focus();
    return false;
  }
  (photo.current.photo ? by("action") : by("file")).focus();
  return false;
}

function busy(is) {
  drawing = is;
  by("draw").disabled = by("describe").disabled = is;
  by("cancel").disabled = !is;
  by("progress").hidden = !is;
  if (!is) job = null;
}

// Has stage 1 write the description into its field; whether it is there. If not, what a person wrote comes back.
async function describe() {
  const asked = { photo: photo.current.photo.photo, action: lines()[0], seed: Number(by("seed").value) };
  const field = by("description");
  aside = field.value === written ? "" : field.value;
  let whole = false;
  by("progress").removeAttribute("value");
  field.value = "";
  field.readOnly = true;
  try {
    whole = await hear(asked);
  } finally {
    field.readOnly = false;
    if (!whole) { field.value = aside; if (written !== aside) written = ""; }  // half a text is none
  }
  return whole;
}

const isAsked = ({ photo: name, action }) => photo.current.photo.photo === name && lines()[0] === action;

async function hear(asked) {
  for await (const told of talk.events("api/describe", asked)) {
    if (told.event === "job") begun(told.job);
    if (!isAsked(asked)) {
      talk.cancel(job).catch(() => {});
      status("The photo or the action is another now: press Draw or Describe it again.");
      return false;
    }
    if (told.event === "place") status(told.place ? `Waiting to be described: place ${told.place}.` : "Stage 1 looks at the photo ...");
    if (told.event === "text") { by("description").value = written = told.text; status("Stage 1 is writing ..."); }
    if (told.event === "note") status(told.message);
    if (told.event === "error") throw new talk.Refused(told.message);
    if (told.event === "cancelled") { status("Cancelled."); return false; }
    if (told.event === "done") { by("description").value = written = told.text; status("Described. Edit the text if you like, then draw."); return true; }
  }
  throw new talk.Refused("The server stopped in the middle; try again.");
}

async function draw() {
  const from = photo.current.photo;
  const count = Number(by("count").value);
  const first = Number(by("seed").value);
  const asked = lines().flatMap((action) => methods().flatMap((method) =>
    Array.from({ length: count }, (_, more) => settings(action, method, first + more))));
  if (asked.length > known.limits.frames)
    throw new talk.Refused(`That makes ${asked.length} frames; ${known.limits.frames} at once are allowed: fewer actions, frames or methods.`);
  const several = { method: methods().length > 1, seed: count > 1 };
  const cards = asked.map((one) => frames.card(
    [one.action, several.method && one.method, several.seed && `seed ${one.seed}`].filter(Boolean).join(", "),
    from.view, `${from.width} / ${from.height}`));
  by("grid").replaceChildren(frames.source(from.view, `${from.width} / ${from.height}`), ...cards.map((each) => each.button));
  by("grid").hidden = asked.length === 1;
  const steps = asked.map(() => 0);
  const ended = { done: 0, error: 0, cancelled: 0 };
  let message = "";
  for await (const told of talk.events("api/draw", { photo: from.photo, frames: asked })) {
    if (told.event === "job") { begun(told.job); continue; }
    const each = cards[told.frame];
    if (told.event === "place") {
      const what = told.line === "draw" ? "drawn" : "described";
      const text = told.place ? `Waiting to be ${what}: place ${told.place}.` : told.line === "draw" ? "Drawing ..." : "Stage 1 is writing ...";
      each.note(text);
      status(text);
    } else if (told.event === "text") {
      each.note(told.text);
    } else if (told.event === "note") {
      status(told.message);
    } else if (told.event === "step") {
      steps[told.frame] = told.step / told.steps;
      by("progress").value = steps.reduce((sum, part) => sum + part, 0) / steps.length;
      each.note(`Step ${told.step} of ${told.steps}`);
      if (asked.length === 1) status(`Drawing: step ${told.step} of ${told.steps}.`);
      if (told.preview) { each.preview(told.preview); if (asked.length === 1) frames.glimpse(told.preview, from.view, asked[0].action); }
    } else if (told.event in ended) {
      ended[told.event] += 1;
      steps[told.frame] = 1;
      if (told.event === "done") {
        const frame = { picture: told.picture, settings: told.settings, view: from.view };
        each.finish(frame);
        each.note(told.settings.drawn.text === told.settings.action ? "" : told.settings.drawn.text);
        frames.remember(frame);
        if (ended.done === 1) frames.show(frame);
      } else {
        message = told.message ?? "";
        each.fail(told.message ?? "Cancelled.");
      }
    }
  }
  if (ended.done + ended.error + ended.cancelled < asked.length)
    throw new talk.Refused("The server stopped in the middle; try again.");
  if (message) problem(ended.error === 1 ? message : `${ended.error} frames failed, the last one: ${message}`);
  status(ended.cancelled ? "Cancelled." : ended.done ? `Drawn: ${ended.done} of ${asked.length}.` : "");
  if (!ended.done) by("grid").replaceChildren();
}

async function run(work) {
  if (drawing || !ready()) return;
  busy(true);
  stop = false;
  by("result-title").scrollIntoView({ block: "nearest" });
  by("progress").removeAttribute("value");
  try {
    await work();
  } catch (error) {
    status("");
    problem(error instanceof talk.Refused ? error.message : `The page itself failed (${error.message}); reload it.`);
  } finally {
    frames.settle();
    busy(false);
  }
}

async function describeThenDraw() {
  const alone = lines().length === 1 && known.stage_one && !by("description").value.trim();
  const described = known.methods.some((method) => method.described && methods().includes(method.name));
  if (alone && described && !(await describe())) return;
  await draw();
}

function linkOf(made) {
  const words = new URLSearchParams();
  const given = { ...made, description: made.description ?? "" };
  for (const name of ["photo", "method", ...FIELDS])
    if (given[name] !== undefined && given[name] !== null && given[name] !== "") words.set(name, given[name]);
  return `${location.origin}${location.pathname}#${words}`;
}

async function restore(show) {
  if (!location.hash.includes("=")) return;
  const words = new URLSearchParams(location.hash.slice(1));
  problem("");
  written = "";
  aside = words.get("description") ?? "";
  moved.clear();
  for (const name of FIELDS) {
    by(name).value = untouched[name];
    if (!words.has(name)) continue;
    const value = words.get(name);
    if (NUMBERS.includes(name) && !Number.isFinite(Number(value))) continue;
    if (by(name).tagName === "SELECT" && ![...by(name).options].some((option) => option.value === value)) continue;
    by(name).value = value;
    if (SCALES.includes(name)) moved.add(name);
  }
  for (const box of document.querySelectorAll("#methods input"))
    if (words.has("method")) box.checked = box.value === words.get("method");
  values();
  if (["steps", "resolution", "scheduler"].some((name) => words.has(name))) by("steps").closest("details").open = true;
  try {
    if (words.has("photo")) show(await talk.knownPhoto(words.get("photo")));
    status("Settings of the link are filled in.");
  } catch {
    problem("The photo of this link is not kept any more: choose it again. All other settings are filled in.");
  }
  if (by("description").value === aside) written = aside;
}

function values() {
  for (const id of SCALES) by(`${id}-value`).textContent = Number(Number(by(id).value).toFixed(2));
}

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  by("theme").value = name;
}

async function begin() {
  let chosen = "auto";
  try { chosen = localStorage.getItem("lego-theme") ?? "auto"; } catch { /* without storage, as the system */ }
  theme(chosen);
  by("theme").addEventListener("change", (event) => {
    theme(event.target.value);
    try { localStorage.setItem("lego-theme", event.target.value); } catch { /* it is forgotten */ }
  });
  try {
    known = await talk.facts();
  } catch (error) {
    status("");
    problem(error.message);
    return;
  }
  setUp();
  untouched = Object.fromEntries(FIELDS.map((name) => [name, by(name).value]));
  values();
  status(known.waiting ? `Ready; ${known.waiting} frames of others are waiting.` : "Ready.");
  frames.begin(linkOf, status);
  const show = photo.begin(known.examples, known.limits.mb, (made) => { suggest(made.actions); forget(); }, problem, status);
  for (const id of SCALES) by(id).addEventListener("input", () => { moved.add(id); values(); });
  by("action").addEventListener("change", forget);
  by("form").addEventListener("submit", (event) => { event.preventDefault(); run(describeThenDraw); });
  by("describe").addEventListener("click", () => run(describe));
  by("cancel").addEventListener("click", async () => {
    stop = true;
    status("Cancelling ...");
    if (job) await talk.cancel(job).catch(() => {});
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); by("action").blur(); run(describeThenDraw); }
    if (event.key === "Escape" && drawing) by("cancel").click();
  });
  window.addEventListener("hashchange", () => restore(show));
  await restore(show);
}

begin();
