// The front-end extension: panels in the nodes, and the DDM tab. Every other file below this folder only exports.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { adapterCard } from "./adapter.js";
import { cardView } from "./panel/card.js";
import { checkView } from "./panel/check.js";
import { html } from "./panel/element.js";
import { progressView } from "./panel/progress.js";
import { trainingView } from "./panel/train.js";
import { panelView } from "./panel/view.js";
import { after, attachPanel, PENDING, valuesOf, watch } from "./panel/widget.js";
import { scheduleView } from "./schedule.js";
import { registerSidebar } from "./sidebar.js";
import { EVENT, isHere, readTrainings, running, stopTraining } from "./trainings.js";

const hint = (text) => [html("p", { class: "ddm-hint" }, text)];

const GUIDANCE = "ddm.guidance";

const PANELS = {
  DDMLoadAdapter: adapterPanel,
  DDMAlphaSchedule: schedulePanel,
  DDMMeasurePrompts: (node) => resultPanel(node, "Whom the model draws appears here, prompt by prompt."),
  DDMFairnessReport: (node) => resultPanel(node, "The report appears here when the graph has run."),
  DDMCompareReports: (node) => resultPanel(node, "Before and after appear here when the graph has run."),
  DDMAlphaSweep: (node) => resultPanel(node, "The shares at every α appear here when the sweep has run."),
  DDMAuditImages: (node) =>
    resultPanel(node, "What is common in the folder, and what is rare, appears here when the graph has run."),
  DDMDistributionGuidance: guidancePanel,
  DDMCheckProbe: checkPanel,
  DDMTrain: trainPanel,
  DDMTrainHead: trainPanel,
};

// What the server tells of nodes at work, by event: functions by node.
const told = Object.fromEntries([EVENT, GUIDANCE, "ddm.progress", "ddm.result"].map((event) => [event, new Map()]));

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

function guidancePanel(node) {
  const show = (panel) => node.onExecuted({ ddm_panel: [panel] });
  const reset = async ({ key, ...panel }) => {
    const headers = { "Content-Type": "application/json" };
    await api.fetchApi("/ddm/guidance/reset", { method: "POST", headers, body: JSON.stringify({ key }) });
    show({ ...panel, key, n: 0, attributes: [], prompts: [] });
  };
  attachPanel(node, (panel) => {
    if (!panel) return hint("The images so far appear here, prompt by prompt, beside the target.");
    const button = html("button", { type: "button", onclick: () => reset(panel) }, "Reset the counts");
    return [...panelView(panel), panel.n > 0 && html("div", { class: "ddm-actions" }, button)];
  });
  listen(node, GUIDANCE, show);
}

function checkPanel(node) {
  let shown, parts;
  const answers = () => node.widgets.find((one) => one.name === "answers");
  const write = (text) => {
    answers().value = text;
    answers().callback?.(text);
  };
  attachPanel(node, (panel) => {
    if (!panel) return hint("Thirty images of the report appear here when the graph has run, with what the probe says.");
    if (panel !== shown) [shown, parts] = [panel, [...checkView(panel.check, () => answers().value, write), ...panelView(panel)]];
    return parts;
  });
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
    leaveNoRoom(node, widget);
  }
  node.setSize(node.computeSize());
}

/** While a widget is hidden, it takes no room. */
function leaveNoRoom(node, widget) {
  const shown = () => !widget.hidden && (node.showAdvanced || !widget.advanced);
  widget.computeSize = (width) => [width ?? 0, shown() ? globalThis.LiteGraph.NODE_WIDGET_HEIGHT : -4];
}

/** An objective hides the inputs that it does not use, shows those that it needs, and has numbers of its own. */
function followObjective(node) {
  const objective = node.widgets.find((one) => one.name === "objective");
  const declared = node.constructor.nodeData?.input?.optional?.objective?.[1] ?? {};
  const { ddm_hidden: hidden, ddm_needed: needed, ddm_usual: usual } = declared;
  if (!objective || !hidden) return;
  const may = new Set(Object.values(hidden).flat());
  for (const widget of node.widgets) if (may.has(widget.name)) leaveNoRoom(node, widget);
  const few = new Set(node.widgets.filter((one) => one.advanced).map((one) => one.name));
  const first = Object.fromEntries(node.widgets.map((one) => [one.name, one.value]));
  let before = objective.value;
  const show = () => {
    for (const widget of node.widgets) {
      widget.hidden = Boolean(hidden[objective.value]?.includes(widget.name));
      widget.advanced = few.has(widget.name) && !needed[objective.value]?.includes(widget.name);
      // The new renderer reads both here, and draws when the list is another one.
      Object.assign(widget.options, { hidden: widget.hidden, advanced: widget.advanced });
    }
    node.widgets = [...node.widgets];
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas?.(true, true);
  };
  const usually = (name, of) => usual[of]?.[name] ?? first[name];
  after(objective, "callback", () => {
    // A number that somebody has chosen stays.
    for (const name of new Set(Object.values(usual).flatMap(Object.keys))) {
      const widget = node.widgets.find((one) => one.name === name);
      if (widget.value === usually(name, before)) widget.value = usually(name, objective.value);
    }
    before = objective.value;
    show();
  });
  after(node, "onConfigure", () => {
    before = objective.value;
    show();
  });
  show();
}

function trainPanel(node) {
  let live, owner;
  followObjective(node);
  const view = trainingView(() => stopTraining(owner));
  const before = () => hint("Progress and previews appear here while it trains. Cancel keeps what was trained.");
  const draw = attachPanel(node, (panel) => (live || panel ? view(live ?? panel) : before()));
  listen(node, EVENT, (panel, from) => {
    [live, owner] = [running(panel) ? panel : undefined, from];
    if (live) draw();
    else node.onExecuted({ ddm_panel: [panel] });
  });
}

/** A node inside a subgraph has the ids of those around it before its own. */
function pass({ type, detail }) {
  if (!isHere(detail)) return;
  const own = String(detail.node).split(":").at(-1);
  for (const [node, show] of told[type]) if (String(node.id) === own) show(detail.panel, detail);
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
  async afterConfigureGraph() {
    for (const detail of await readTrainings()) pass({ type: EVENT, detail });
  },
  nodeCreated(node) {
    if (!(node.comfyClass in PANELS)) return;
    hideAdvanced(node);
    PANELS[node.comfyClass](node);
  },
});
