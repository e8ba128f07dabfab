// The front-end extension: panels in the nodes, and the DDM tab. Every other file below this folder only exports.

import { app } from "../../scripts/app.js";
import { adapterCard } from "./adapter.js";
import { cardView } from "./panel/card.js";
import { html } from "./panel/element.js";
import { panelView } from "./panel/view.js";
import { attachPanel, PENDING, valuesOf, watch } from "./panel/widget.js";
import { scheduleView } from "./schedule.js";
import { registerSidebar } from "./sidebar.js";

const hint = (text) => [html("p", { class: "ddm-hint" }, text)];

const PANELS = {
  DDMLoadAdapter: adapterPanel,
  DDMAlphaSchedule: schedulePanel,
  DDMFairnessReport: (node) => resultPanel(node, "The report appears here when the graph has run."),
  DDMCompareReports: (node) => resultPanel(node, "Before and after appear here when the graph has run."),
  DDMAlphaSweep: (node) => resultPanel(node, "The shares at every α appear here when the sweep has run."),
  DDMAuditImages: (node) =>
    resultPanel(node, "What is common in the folder, and what is rare, appears here when the graph has run."),
};

function resultPanel(node, before) {
  attachPanel(node, (panel) => (panel ? panelView(panel) : hint(before)));
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

app.registerExtension({
  name: "DDM",
  init() {
    const address = new URL("./style.css", import.meta.url).href;
    document.head.append(html("link", { rel: "stylesheet", href: address }));
  },
  setup: registerSidebar,
  nodeCreated(node) {
    PANELS[node.comfyClass]?.(node);
  },
});
