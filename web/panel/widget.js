// A panel inside a node, in both renderers: an element that grows with what it shows, and a result that is kept.

import { app } from "../../../scripts/app.js";
import { html } from "./element.js";

const KEPT = "ddm_panel";
const LEAST_WIDTH = 380;
const MOST_HEIGHT = 1200;
const MARGIN = 8;

/** Attribute of a part that is about to be replaced: the node keeps its size until then. */
export const PENDING = "data-pending";

/**
 * Give a node a panel.
 *
 * @param {object} node - a LiteGraph node
 * @param {(result: object|undefined) => Node[]} view - draws the last result, undefined before the first
 * @returns {() => void} draws again
 */
export function attachPanel(node, view) {
  const content = html("div", { class: "ddm-content" });
  const root = html("div", { class: "ddm", role: "region", "aria-label": node.title, tabindex: "0" }, content);
  root.dataset.captureWheel = "true";
  root.addEventListener(
    "wheel",
    (event) => scrolls(root) && root.contains(document.activeElement) && event.stopPropagation(),
  );

  let height;
  const room = () => (height ?? 0) + 2 * MARGIN;
  const widget = node.addDOMWidget("ddm_panel", "ddm_panel", root, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: room,
    getMaxHeight: room,
  });
  widget.serialize = false;
  widget.serializeValue = () => undefined;

  const fit = () => {
    const wanted = Math.min(content.offsetHeight, MOST_HEIGHT);
    if (!content.isConnected || !wanted || wanted === height || content.querySelector(`[${PENDING}]`)) return;
    // What the user has given the node beyond its need stays, and a loaded graph brings the size that it was saved with.
    // The new renderer lays nodes out by itself: there only the least size is ours to say.
    const ours = height !== undefined && !globalThis.LiteGraph.vueNodesMode;
    const spare = ours ? Math.max(node.size[1] - node.computeSize()[1], 0) : 0;
    const least = height === undefined ? node.size[1] : 0;
    height = wanted;
    root.style.minHeight = `${height}px`;
    node.setSize([Math.max(node.size[0], LEAST_WIDTH), Math.max(node.computeSize()[1] + spare, least)]);
    node.setDirtyCanvas?.(true, true);
  };
  new ResizeObserver(fit).observe(content);

  const draw = () => {
    const parts = view(node.properties?.[KEPT]).filter(Boolean);
    // A part that stays is left where it is: put back, it would have lost its focus, and a click that had begun.
    for (const old of [...content.childNodes]) if (!parts.includes(old)) old.remove();
    parts.forEach((part, i) => {
      if (content.childNodes[i] !== part) content.insertBefore(part, content.childNodes[i] ?? null);
    });
  };

  after(node, "onExecuted", (output) => {
    const panel = output?.ddm_panel?.[0];
    if (!panel) return;
    node.properties[KEPT] = panel;
    latest.set(placeOf(node), panel);
    dropPreview(node);
    draw();
  });
  after(node, "onConfigure", () => {
    if (undoing() && latest.has(placeOf(node))) node.properties[KEPT] = latest.get(placeOf(node));
    draw();
  });
  draw();
  node.setSize([Math.max(node.size[0], LEAST_WIDTH), node.size[1]]);
  return draw;
}

// Undo brings a graph back as it was before, but what came of a run since then was not a change to undo.
const latest = new Map();
const placeOf = (node) => `${node.graph?.id ?? app.graph.id}:${node.id}`;
const undoing = () => Boolean(app.extensionManager.workflow?.activeWorkflow?.changeTracker?._restoringState);

/** The last preview of the sampling is one image of many; beside the result it only takes room. */
function dropPreview(node) {
  if (app.nodePreviewImages) delete app.nodePreviewImages[node.id];
  // The new renderer has one of its own, and no other way to it.
  const stores = document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s;
  const place = node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : String(node.id);
  stores?.get("nodeOutput")?.revokePreviewsByLocatorId?.(place);
  node.imgs = undefined;
  node.widgets = node.widgets.filter((widget) => widget.name !== "$$canvas-image-preview");
}

/** Call `then` after a node's own callback of that name. */
export function after(node, name, then) {
  const own = node[name];
  node[name] = function (...values) {
    const answer = own?.apply(this, values);
    then.apply(this, values);
    return answer;
  };
}

/** Call `changed` whenever one of a node's widgets gets another value. */
export function watch(node, changed) {
  for (const widget of node.widgets ?? []) after(widget, "callback", changed);
}

/** Values of a node's widgets by name. */
export const valuesOf = (node) => Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value]));

const scrolls = (root) => root.scrollHeight > root.clientHeight + 1;
