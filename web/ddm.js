// The front-end extension: panels in the nodes, and the DDM tab. Every other file below this folder only exports.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { adapterCard } from "./adapter.js";
import { cardView } from "./panel/card.js";
import { html } from "./panel/element.js";
import { progressView } from "./panel/progress.js";
import { trainingView } from "./panel/train.js";
import { panelView } from "./panel/view.js";
import { after, attachPanel, PENDING, valuesOf, watch } from "./panel/widget.js";
import { scheduleView } from "./schedule.js";
import { registerSidebar } from "./sidebar.js";

const hint = (text) => [html("p", { class: "ddm-hint" }, text)];

const PANELS = {
  DDMLoadAdapter: adapterPanel,
  DDMAlphaSchedule: schedulePanel,
  DDMMeasurePrompts: (node) => resultPanel(node, "Whom the model draws appears here, prompt by prompt."),
  DDMFairnessReport: (node) => resultPanel(node, "The report appears here when the graph has run."),
  DDMCompareReports: (node) => resultPanel(node, "Before and after appear here when the graph has run."),
  DDMAlphaSweep: (node) => resultPanel(node, "The shares at every α appear here when the sweep has run."),
  DDMAuditImages: (node) =>
    resultPanel(node, "What is common in the folder, and what is rare, appears here when the graph has run."),
  DDMTrain: trainPanel,
};

// What the server tells of nodes at work, by event: functions by node.
const told = { "ddm.train": new Map(), "ddm.progress": new Map(), "ddm.result": new Map() };

function resultPanel(node, before) {
  let progress, shown, parts;
  // A result stays the same elements while work goes on: what was unfolded would be folded otherwise.
  const result = (panel) => {
    if (panel !== shown) [shown, parts] = [panel, panelView(panel)];
    return parts;
  };
  const draw = attachPanel(node, (panel) => [
    progress && progressView(progress),
    ...(panel ? result(panel) : progress ? [] : hint(before)),
  ]);
  const work = (now) => {
    progress = now;
    draw();
  };
  listen(node, "ddm.progress", work);
  // A cancelled node has no outputs: what it measured until then comes by this way.
  listen(node, "ddm.result", (panel) => node.onExecuted({ ddm_panel: [panel] }));
  for (const end of ["execution_success", "execution_interrupted", "execution_error"]) {
    const done = () => progress && work(undefined);
    api.addEventListener(end, done);
    after(node, "onRemoved", () => api.removeEventListener(end, done));
  }
}

/** Call `show` with what the server tells of a node. */
function listen(node, event, show) {
  told[event].set(node, show);
  after(node, "onRemoved", () => told[event].delete(node));
}

function adapterPanel(node) {
  let shown = {};
  const use = (alpha) => {
    const widget = node.widgets.find((one) => one.name === "alpha");
    widget.value = alpha;
    widget.callback?.(alpha);
    node.setDirtyCanvas?.(true, true);
  };
  const view = (panel) => {
    const { adapter, alpha, strength_from: source } = valuesOf(node);
    if (adapter !== shown.name) read(adapter);
    if (shown.card === undefined) return [html("p", { class: "ddm-hint", [PENDING]: true }, "Reading the card …")];
    const told = panel?.title === adapter && panel.verdict && html("p", { class: "ddm-told" }, panel.verdict.text);
    const now = source === "recommended" ? { alpha: shown.card?.recommended_alpha } : { alpha, use };
    return [told, cardView(shown.card, now)].flat();
  };
  const read = async (name) => {
    shown = { name };
    const card = await adapterCard(name);
    if (shown.name !== name) return;
    shown = { name, card };
    draw();
  };
  const draw = attachPanel(node, view);
  watch(node, () => draw());
}

function schedulePanel(node) {
  const draw = attachPanel(node, () => scheduleView(valuesOf(node)));
  watch(node, () => draw());
}

/**
 * The classic renderer hides what a widget itself calls advanced, and the page says so in the widget's options alone.
 * It would keep room for what it hides, between the other widgets and the panel.
 */
function hideAdvanced(node) {
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  if (!advanced.length) return;
  for (const widget of advanced) {
    widget.advanced = true;
    widget.computeSize = (width) => [width ?? 0, node.showAdvanced ? globalThis.LiteGraph.NODE_WIDGET_HEIGHT : -4];
  }
  node.setSize(node.computeSize());
}

function trainPanel(node) {
  let live;
  const view = trainingView();
  const before = () => hint("Loss and previews appear here while it trains. Cancel keeps what was trained.");
  const draw = attachPanel(node, (panel) => (live || panel ? view(live ?? panel) : before()));
  listen(node, "ddm.train", (panel) => {
    live = panel;
    draw();
  });
  after(node, "onExecuted", () => {
    live = undefined;
    draw();
  });
}

/** A node inside a subgraph has the ids of those around it before its own. */
function pass({ type, detail: { node: id, panel } }) {
  const own = String(id).split(":").at(-1);
  for (const [node, show] of told[type]) if (String(node.id) === own) show(panel);
}

app.registerExtension({
  name: "DDM",
  init() {
    const address = new URL("./style.css", import.meta.url).href;
    document.head.append(html("link", { rel: "stylesheet", href: address }));
  },
  setup() {
    registerSidebar();
    for (const event of Object.keys(told)) api.addEventListener(event, pass);
  },
  nodeCreated(node) {
    if (!(node.comfyClass in PANELS)) return;
    hideAdvanced(node);
    PANELS[node.comfyClass](node);
  },
});
