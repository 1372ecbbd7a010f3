"use strict";
const at = (id) => document.getElementById(id);
const choices = [...document.querySelectorAll(".choice")];
const frames = choices.filter((button) => button.dataset.place !== "0");
const state = { rater: "", items: [], index: 0, since: 0, busy: false };

const picture = (item, place) =>
  "/picture?" + new URLSearchParams({ rater: state.rater, item: item.key, place });

async function ask(path, options) {
  let reply;
  try {
    reply = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Error("The study cannot be reached. Is it still running?");
  }
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

function show(index) {
  state.index = index;
  const item = state.items[index];
  const answered = state.items.filter((each) => each.place !== null).length;
  at("welcome").hidden = true;
  at("done").hidden = Boolean(item);
  at("task").hidden = !item;
  at("trouble").textContent = "";
  if (!item) {
    at("total").textContent = state.items.length;
    at("done").querySelector("h1").focus();
    return;
  }
  at("bar").setAttribute("aria-valuemax", state.items.length);
  at("bar").setAttribute("aria-valuenow", answered);
  at("bar").firstElementChild.style.width = (100 * answered) / state.items.length + "%";
  at("count").textContent = `${index + 1} of ${state.items.length}, ${answered} answered`;
  at("who").textContent = state.rater;
  at("action").textContent = item.action;
  at("source").src = picture(item, 0);
  for (const button of frames) button.querySelector("img").src = picture(item, button.dataset.place);
  for (const button of choices)
    button.setAttribute("aria-pressed", String(item.place) === button.dataset.place);
  at("back").disabled = index === 0;
  at("next").disabled = item.place === null;
  at("action").focus();
  scrollTo(0, 0);
  state.since = performance.now();
}

function onwards() {
  const open = state.items.findIndex((each) => each.place === null);
  const behind = state.items.findIndex((each, index) => index > state.index && each.place === null);
  show(behind >= 0 ? behind : open >= 0 ? open : state.items.length);
}

async function answer(place) {
  if (state.busy || at("task").hidden) return;
  const item = state.items[state.index];
  const milliseconds = Math.round(performance.now() - state.since);
  state.busy = true;
  at("trouble").textContent = "";
  try {
    await ask("/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ rater: state.rater, item: item.key, place, milliseconds }),
    });
    const isNew = item.place === null;
    item.place = place;
    if (isNew) onwards();
    else show(state.index + 1);
  } catch (error) {
    at("trouble").textContent = `This answer is not kept. ${error.message} Then pick again.`;
  } finally {
    state.busy = false;
  }
}

at("welcome").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("refused").textContent = "";
  state.rater = at("rater").value.trim().replace(/\s+/g, " ");
  try {
    state.items = await ask("/items?" + new URLSearchParams({ rater: state.rater }));
    state.index = -1;
    onwards();
  } catch (error) {
    at("refused").textContent = error.message;
  }
});
for (const button of choices) button.addEventListener("click", () => answer(Number(button.dataset.place)));
at("back").addEventListener("click", () => show(state.index - 1));
at("next").addEventListener("click", () => show(state.index + 1));
at("again").addEventListener("click", () => show(0));

document.addEventListener("keydown", (event) => {
  if (at("task").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = choices.find((each) => each.dataset.place === event.key);
  if (button) answer(Number(event.key));
  else if (event.key === "ArrowLeft" && !at("back").disabled) show(state.index - 1);
  else if (event.key === "ArrowRight" && !at("next").disabled) show(state.index + 1);
  else return;
  event.preventDefault();
});
at("rater").focus();
