// A panel inside a node, in both renderers: an element that grows with what it shows, and a result that is kept.

import { html } from "./element.js";

const KEPT = "ddm_panel";
const LEAST_WIDTH = 380;
const MOST_HEIGHT = 1200;

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
  root.addEventListener("wheel", (event) => scrolls(root) && root.contains(document.activeElement) && event.stopPropagation());

  let height = 0;
  const widget = node.addDOMWidget("ddm_panel", "ddm_panel", root, {
    serialize: false,
    hideOnZoom: false,
    margin: 8,
    getMinHeight: () => height + 16,
  });
  widget.serialize = false;
  widget.serializeValue = () => undefined;

  const fit = () => {
    const wanted = Math.min(content.offsetHeight, MOST_HEIGHT);
    if (!content.isConnected || !wanted || wanted === height) return;
    const natural = node.computeSize()[1];
    const snug = node.size[1] <= natural + 2;
    height = wanted;
    root.style.minHeight = `${height}px`;
    const needed = node.computeSize()[1];
    node.setSize([Math.max(node.size[0], LEAST_WIDTH), snug ? needed : Math.max(node.size[1], needed)]);
    node.setDirtyCanvas?.(true, true);
  };
  new ResizeObserver(fit).observe(content);

  const draw = () => content.replaceChildren(...view(node.properties?.[KEPT]).filter(Boolean));

  after(node, "onExecuted", (output) => {
    const panel = output?.ddm_panel?.[0];
    if (!panel) return;
    node.properties[KEPT] = panel;
    draw();
  });
  after(node, "onConfigure", draw);
  draw();
  node.setSize([Math.max(node.size[0], LEAST_WIDTH), node.size[1]]);
  return draw;
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
