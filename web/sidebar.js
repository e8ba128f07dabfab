// The DDM tab: every adapter that carries a fairness card. A click puts it into the graph.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { adapterCard, adapterNames } from "./adapter.js";
import { cardView } from "./panel/card.js";
import { html } from "./panel/element.js";
import { progressView } from "./panel/progress.js";
import { EVENT, readTrainings, running, stopTraining } from "./trainings.js";

const LOADER = "DDMLoadAdapter";
const AT_ONCE = 4;

/** Add the tab to the side bar. */
export function registerSidebar() {
  app.extensionManager.registerSidebarTab({
    id: "ddm",
    icon: "mdi mdi-scale-balance",
    title: "DDM",
    tooltip: "Fair adapters and their cards, and trainings",
    type: "custom",
    render,
    destroy: () => stopListening?.(),
  });
}

let stopListening;

async function render(place) {
  const trainings = html("section", { class: "ddm-trainings", "aria-label": "Trainings" });
  showTrainings(trainings);
  const list = html("div", { class: "ddm-list" });
  const reload = html("button", { type: "button", class: "ddm-link", onclick: () => fill(list, true) }, "Reload");
  const head = html("div", { class: "ddm-sidebar-head" }, html("h3", {}, "Fair adapters"), reload);
  place.replaceChildren(html("div", { class: "ddm ddm-sidebar" }, trainings, head, list));
  await fill(list, false);
}

/** The button stays the same element from one message to the next: a click must not be lost. */
function trainingEntry(one) {
  const stop = html("button", { type: "button", onclick: () => stopTraining(one) }, "Stop and keep what was trained");
  return html("article", { class: "ddm-entry" }, html("h4"), html("div"), stop);
}

/** Trainings of every workflow, the latest first, for as long as the tab is open. */
async function showTrainings(place) {
  stopListening?.();
  const shown = new Map();
  const show = (one) => {
    const key = JSON.stringify([one.workflow, one.node]);
    if (!shown.has(key)) shown.set(key, place.insertBefore(trainingEntry(one), place.firstChild));
    const [title, state, stop] = shown.get(key).children;
    title.textContent = one.panel.title;
    state.replaceChildren(running(one.panel) ? progressView(one.panel) : one.panel.summary);
    stop.hidden = !running(one.panel);
  };
  const heard = ({ detail }) => show(detail);
  api.addEventListener(EVENT, heard);
  stopListening = () => api.removeEventListener(EVENT, heard);
  for (const one of await readTrainings()) show(one);
}

async function fill(list, again) {
  list.replaceChildren(html("p", { class: "ddm-muted", role: "status" }, "Reading the cards …"));
  const cards = await cardsOf(await adapterNames(), again);
  const entries = cards.map(({ name, card }) => entryOrProblem(name, card));
  list.replaceChildren(...(entries.length ? entries : [empty()]));
}

async function cardsOf(names, again) {
  const found = [];
  const rest = [...names];
  const reader = async () => {
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      const card = await adapterCard(name, { again });
      if (card) found.push({ name, card });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, reader));
  return found.sort((a, b) => a.name.localeCompare(b.name));
}

function empty() {
  return html(
    "p",
    {},
    "None of your LoRA files carries a fairness card yet. Train one with ",
    html("code", {}, "ddm train"),
    " and put it into models/loras.",
  );
}

/** A card of another program's making may lack anything: it hides no other. */
function entryOrProblem(name, card) {
  try {
    return entry(name, card);
  } catch {
    return html("p", { class: "ddm-muted" }, `${name}: its card cannot be read.`);
  }
}

function entry(name, card) {
  const add = html("button", { type: "button", onclick: () => addLoader(name, card) }, "Add to graph");
  const title = html("h4", {}, name.replace(/\.safetensors$/, ""));
  return html("article", { class: "ddm-entry" }, title, cardView(card), html("div", { class: "ddm-actions" }, add));
}

/** Put a loader of this adapter into the middle of what the canvas shows. */
function addLoader(name, card) {
  const node = globalThis.LiteGraph.createNode(LOADER);
  const { ds, canvas } = app.canvas;
  const middle = [canvas.clientWidth / 2 / ds.scale - ds.offset[0], canvas.clientHeight / 2 / ds.scale - ds.offset[1]];
  node.pos = [middle[0] - node.size[0] / 2, middle[1] - node.size[1] / 2];
  (app.canvas.graph ?? app.graph).add(node);
  const set = (widget, value) => {
    const found = node.widgets.find((one) => one.name === widget);
    found.value = value;
    found.callback?.(value);
  };
  set("adapter", name);
  if (card.objective !== "style" && typeof card.recommended_alpha === "number") set("alpha", card.recommended_alpha);
  app.canvas.selectNode?.(node);
}
