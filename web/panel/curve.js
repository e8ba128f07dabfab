// Lines over α or over the sampling range. Drawn in percent of the plot, so that text keeps its size in wide nodes.

import { html, svg } from "./element.js";
import { known, place } from "./number.js";

const MARKS = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  "M-3.6,-3.6h7.2v7.2h-7.2z",
  "M0,-4.8L4.6,3.4H-4.6z",
  "M0,-5L5,0L0,5L-5,0z",
];

/** Sign of the k-th series, so that colour is never the only difference. */
export const mark = (k) => MARKS[k % MARKS.length];

/**
 * A plot.
 *
 * @param {object} plot
 * @param {string} plot.label - what a screen reader says of it
 * @param {{name?: string, points: {x: number, y: number, low?: number, high?: number, label?: string}[], line?: boolean,
 *   marks?: boolean}[]} plot.series
 * @param {[number, number]} plot.x - range of the horizontal axis
 * @param {[number, number]} plot.y - range of the vertical axis
 * @param {{at: number, text: string}[]} plot.xTicks
 * @param {{at: number, text: string}[]} plot.yTicks
 * @param {string} plot.xTitle
 * @param {string} plot.yTitle
 * @param {number[]} [plot.targets] - dotted lines across
 * @param {{x: number, text: string}} [plot.cursor] - a line upright
 * @param {{low: number, high: number}} [plot.band] - shaded ground
 */
export function plotOf({ label, series, x, y, xTicks, yTicks, xTitle, yTitle, targets = [], cursor, band }) {
  const across = (value) => (value - x[0]) / (x[1] - x[0] || 1);
  const up = (value) => 1 - (value - y[0]) / (y[1] - y[0] || 1);
  const drawing = svg("svg", { class: "ddm-plot-drawing", width: "100%", height: "100%", "aria-hidden": "true" });
  const lines = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", width: "100%", height: "100%" });
  drawing.append(lines);
  const point = ({ x: at, y: value }) =>
    `${(100 * across(at)).toFixed(2)},${(100 * Math.min(Math.max(up(value), 0), 1)).toFixed(2)}`;
  if (band) {
    const [top, bottom] = [100 * up(band.high), 100 * up(band.low)];
    lines.append(svg("rect", { class: "ddm-floor", x: 0, width: 100, y: top, height: Math.max(bottom - top, 0) }));
  }
  for (const { at } of yTicks)
    drawing.append(svg("line", { class: "ddm-grid", x1: 0, x2: "100%", y1: place(up(at)), y2: place(up(at)) }));
  for (const level of new Set(targets)) {
    drawing.append(svg("line", { class: "ddm-target", x1: 0, x2: "100%", y1: place(up(level)), y2: place(up(level)) }));
  }
  if (cursor) {
    const at = place(across(cursor.x));
    drawing.append(svg("line", { class: "ddm-cursor", x1: at, x2: at, y1: 0, y2: "100%" }));
  }
  const apart = keptApart();
  series.forEach((one, k) => {
    const colour = `var(--ddm-series-${k % 8})`;
    const drawn = one.points.filter((each) => known(each.x) && known(each.y));
    const sure = drawn.filter((each) => known(each.low) && known(each.high));
    if (sure.length > 1) {
      const edge = [
        ...sure.map((each) => point({ x: each.x, y: each.high })),
        ...[...sure].reverse().map((each) => point({ x: each.x, y: each.low })),
      ];
      lines.append(svg("polygon", { points: edge.join(" "), fill: colour, opacity: 0.16 }));
    }
    if (one.line !== false)
      lines.append(svg("polyline", { class: "ddm-line", points: drawn.map(point).join(" "), stroke: colour }));
    if (one.marks === false) return;
    for (const each of drawn) {
      const spot = svg("svg", { class: "ddm-spot", x: place(across(each.x)), y: place(up(each.y)) });
      spot.append(svg("path", { d: mark(k), fill: colour }));
      const above = each.label && apart(across(each.x), up(each.y));
      if (each.label) spot.append(svg("text", { class: "ddm-spot-label", x: 8, y: -6 - 12 * above }, each.label));
      drawing.append(spot);
    }
  });
  const tick = ({ at, text }, axis) =>
    html(
      "span",
      { class: `ddm-tick-${axis}`, style: axis === "x" ? { left: place(across(at)) } : { top: place(up(at)) } },
      text,
    );
  return html(
    "figure",
    { class: "ddm-figure" },
    html("figcaption", {}, yTitle),
    html(
      "div",
      { class: "ddm-plot", role: "img", "aria-label": label },
      drawing,
      xTicks.map((one) => tick(one, "x")),
      yTicks.filter((one, i) => yTicks.findIndex((other) => other.text === one.text) === i).map((one) => tick(one, "y")),
      cursor && html("span", { class: "ddm-cursor-label", style: { left: place(across(cursor.x)) } }, cursor.text),
      endLabels(series, up),
    ),
    html("div", { class: "ddm-x-title" }, xTitle),
  );
}

/** Tells how many labels have been put about a place before, so that the next one goes above them. */
function keptApart() {
  const put = [];
  return (x, y) => {
    const before = put.filter((one) => Math.abs(one.x - x) < 0.15 && Math.abs(one.y - y) < 0.08).length;
    put.push({ x, y });
    return before;
  };
}

/** Names at the right end of the lines, kept apart. */
function endLabels(series, up) {
  const ends = series
    .map((one, k) => ({ name: one.name, k, last: one.points.filter((each) => known(each.y)).at(-1) }))
    .filter(({ name, last }) => name && last)
    .map((one) => ({ ...one, at: Math.min(Math.max(up(one.last.y), 0), 1) }))
    .sort((a, b) => a.at - b.at);
  ends.forEach((one, i) => {
    if (i) one.at = Math.max(one.at, ends[i - 1].at + 0.13);
  });
  // At the bottom they move up together, off the numbers of the axis.
  const below = Math.max(0, (ends.at(-1)?.at ?? 0) - 1);
  for (const one of ends) one.at -= below;
  return ends.map(({ name, k, at }) =>
    html(
      "span",
      {
        class: "ddm-end",
        title: name,
        style: { top: `${(100 * at).toFixed(2)}%`, color: `var(--ddm-series-${k % 8})` },
      },
      name,
    ),
  );
}
