// Drawn frames: the one that is compared with its photo, those of a request side by side, and the history.

const by = (id) => document.getElementById(id);
const KEY = "lego-history";
const MOST = 60;
let shown = null;

export function show(frame) {
  shown = frame;
  const { settings } = frame;
  by("viewer").hidden = by("keeping").hidden = false;
  by("before").src = frame.view;
  by("after").src = frame.picture;
  by("after").alt = `Drawn: ${settings.action}`;
  by("caption").textContent = settings.action;
  const said = settings.drawn.text === settings.action ? "" : settings.drawn.text;
  by("said").textContent = `${said} (${settings.method}, seed ${settings.seed}, ${settings.drawn.steps} steps)`;
  by("save-picture").href = frame.picture;
  by("save-settings").href = `data:application/json,${encodeURIComponent(JSON.stringify(settings, null, 2))}`;
  by("save-photo").href = `api/photos/${encodeURIComponent(settings.photo)}/original`;
  for (const card of document.querySelectorAll(".card"))
    card.setAttribute("aria-pressed", String(card.dataset.picture === frame.picture));
}

// A frame that is not finished, where the finished one will be; there is nothing to keep yet.
export function glimpse(url, view, action) {
  by("viewer").hidden = false;
  by("keeping").hidden = true;
  by("before").src = view;
  by("after").src = url;
  by("after").alt = "The frame as it appears";
  by("caption").textContent = action;
  by("said").textContent = "";
}

// Where a glimpse is left, the frame that was shown before it is again.
export function settle() {
  if (!by("keeping").hidden) return;
  if (shown) show(shown);
  else by("viewer").hidden = true;
}

export function begin(linkOf, onStatus) {
  const slide = () => {
    const at = by("compare").value;
    by("after").style.clipPath = `inset(0 0 0 ${at}%)`;
    by("edge").style.left = `${at}%`;
  };
  by("compare").addEventListener("input", slide);
  slide();
  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
      onStatus(`${what} is copied.`);
    } catch {
      window.prompt(`${what}:`, text);
    }
  };
  by("copy-link").addEventListener("click", () => copy(linkOf(shown.settings), "The link"));
  by("copy-command").addEventListener("click", () => copy(shown.settings.command, "The command"));
  by("clear").addEventListener("click", () => { keep([]); list(); });
  list();
}

// A card that shows how a frame comes along, and then the frame.
export function card(title, view, shape) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  const name = document.createElement("b");
  const note = document.createElement("small");
  button.type = "button";
  button.className = "card waiting";
  button.disabled = true;
  button.style.setProperty("--shape", shape);
  image.src = view;
  image.alt = "";
  name.textContent = title;
  button.append(image, name, note);
  return {
    button,
    note: (text) => { note.textContent = text; },
    preview: (url) => { image.src = url; },
    finish: (frame) => {
      button.classList.remove("waiting");
      button.disabled = false;
      button.dataset.picture = frame.picture;
      image.src = frame.picture;
      image.alt = `Drawn: ${frame.settings.action}`;
      button.addEventListener("click", () => show(frame));
    },
    fail: (text) => {
      button.classList.remove("waiting");
      note.classList.add("wrong");
      note.textContent = text;
    },
  };
}

// The photo itself, before the frames that were drawn of it.
export function source(view, shape) {
  const made = document.createElement("div");
  const image = document.createElement("img");
  const name = document.createElement("b");
  made.className = "card source";
  made.style.setProperty("--shape", shape);
  image.src = view;
  image.alt = "The photo before the actions";
  name.textContent = "before";
  made.append(image, name);
  return made;
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

function keep(frames) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(frames.slice(0, MOST)));
  } catch { /* a browser without storage has no history */ }
}

export function remember(frame) {
  keep([frame, ...kept()]);
  list();
}

function list() {
  const frames = kept();
  by("clear").hidden = !frames.length;
  by("history-hint").hidden = Boolean(frames.length);
  by("history").replaceChildren(...frames.map((frame) => {
    const { drawn, seed, action } = frame.settings;
    const made = card(action, frame.picture, `${drawn.width} / ${drawn.height}`);
    made.note(`seed ${seed}`);
    made.finish(frame);
    const image = made.button.querySelector("img");
    image.loading = "lazy";
    return made.button;
  }));
}
