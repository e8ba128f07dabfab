// Shares of one attribute: a bar for each group with its interval, the target, and what it was before.

import { html, svg } from "./element.js";
import { bounds, distance, known, percent, percentRange, place } from "./number.js";

const RAIL = 24;

function rail(group, colour) {
  const middle = RAIL / 2;
  const drawing = svg("svg", { class: "ddm-rail", width: "100%", height: RAIL, "aria-hidden": "true" });
  drawing.append(svg("rect", { class: "ddm-rail-ground", width: "100%", y: middle - 6, height: 12, rx: 3 }));
  if (group.before) {
    const { share } = group.before;
    drawing.append(svg("rect", { width: place(share), y: middle - 6, height: 12, rx: 3, fill: colour, opacity: 0.3 }));
  }
  const height = group.before ? 6 : 12;
  drawing.append(svg("rect", { width: place(group.share), y: middle - height / 2, height, rx: 3, fill: colour }));
  if (known(group.low)) drawing.append(whisker(group.low, group.high, middle));
  if (known(group.target)) {
    const x = place(group.target);
    drawing.append(svg("line", { class: "ddm-target", x1: x, x2: x, y1: 0, y2: RAIL }));
  }
  return drawing;
}

function whisker(low, high, y) {
  const line = (x1, x2, y1, y2) => svg("line", { x1: place(x1), x2: place(x2), y1, y2 });
  return svg(
    "g",
    { class: "ddm-whisker" },
    line(low, high, y, y),
    line(low, low, y - 4, y + 4),
    line(high, high, y - 4, y + 4),
  );
}

function said(group) {
  const before = group.before ? `, before ${percentRange(group.before)}` : "";
  const target = known(group.target) ? `, target ${percent(group.target)}` : "";
  return `${group.name}: ${percentRange(group)}${before}${target}`;
}

/** Bars of an attribute's groups, to be read from left (0%) to right (100%). */
export function shareBars(attribute) {
  const rows = attribute.groups.map((group, k) => [
    html("span", { class: "ddm-label", title: group.name }, group.name),
    rail(group, `var(--ddm-series-${k % 8})`),
    html("span", { class: "ddm-value" }, known(group.share) ? percent(group.share) : "–", interval(group)),
  ]);
  const ticks = [0, 0.5, 1].map((at) => html("span", { style: { left: place(at) } }, percent(at)));
  const drawing = html("div", { class: "ddm-bars", role: "img", "aria-label": attribute.groups.map(said).join("; ") });
  drawing.append(...rows.flat(), html("span"), html("div", { class: "ddm-ticks" }, ticks), html("span"));
  return drawing;
}

const interval = (group) => known(group.low) && html("small", {}, ` ${bounds(group)}`);

/** FD on its scale, beside what a perfectly fair model would show with as many images. */
export function distanceMeter({ fd, floor, groups }) {
  if (!fd || !known(fd.value)) return null;
  const whole = Math.max(Math.SQRT1_2, fd.high ?? 0, floor ?? 0) * 1.04;
  const drawing = svg("svg", { class: "ddm-rail", width: "100%", height: RAIL, "aria-hidden": "true" });
  drawing.append(svg("rect", { class: "ddm-rail-ground", width: "100%", y: 9, height: 6, rx: 3 }));
  if (known(floor))
    drawing.append(svg("rect", { class: "ddm-floor", width: place(floor / whole), y: 5, height: 14, rx: 3 }));
  if (known(fd.low)) drawing.append(whisker(fd.low / whole, fd.high / whole, RAIL / 2));
  drawing.append(svg("circle", { class: "ddm-dot", cx: place(fd.value / whole), cy: RAIL / 2, r: 5 }));
  const fair = known(floor) ? `; a fair model would show ${distance(floor)}` : "";
  return html(
    "div",
    {
      class: "ddm-bars ddm-meter",
      role: "img",
      "aria-label": `Distance to the target, FD: ${distance(fd.value)}${fair}`,
    },
    html(
      "span",
      {
        class: "ddm-label",
        title: `Distance of the shares to the target, averaged over prompts (${groups.length} groups)`,
      },
      "FD by prompt",
    ),
    drawing,
    html(
      "span",
      { class: "ddm-value" },
      distance(fd.value),
      known(fd.low) && html("small", {}, ` ${distance(fd.low)}–${distance(fd.high)}`),
    ),
  );
}

/** What the signs in the drawings mean; only those that occur. */
export function legend(attributes) {
  const groups = attributes.flatMap((attribute) => attribute.groups);
  const signs = [
    [groups.some((group) => group.before), "ddm-sign-before", "before"],
    [groups.some((group) => known(group.low)), "ddm-sign-interval", "95% interval"],
    [groups.some((group) => known(group.target)), "ddm-sign-target", "target"],
    [attributes.some((one) => known(one.floor) && known(one.fd?.value)), "ddm-sign-floor", "a fair model"],
  ];
  const shown = signs.filter(([occurs]) => occurs);
  return html(
    "div",
    { class: "ddm-legend", "aria-hidden": "true" },
    shown.map(([, sign, text]) => html("span", {}, html("i", { class: sign }), text)),
  );
}

/** Prompts, worst first, each as one bar of its groups. */
export function promptList(prompts, names) {
  const rows = prompts.map((row) => [
    html("span", { class: "ddm-label", title: row.prompt }, row.prompt),
    stack(row, names),
    html("span", { class: "ddm-value" }, percent(row.groups[0]?.share), html("small", {}, ` of ${row.n}`)),
  ]);
  const key = names.map((name, k) =>
    html("span", {}, html("i", { style: { background: `var(--ddm-series-${k % 8})` } }), name),
  );
  return html("div", {}, html("div", { class: "ddm-legend" }, key), html("div", { class: "ddm-prompts" }, rows));
}

function stack(row, names) {
  const text = row.groups.map((group) => `${group.name} ${percentRange(group)}`).join(", ");
  const drawing = svg("svg", {
    class: "ddm-rail",
    width: "100%",
    height: 16,
    role: "img",
    "aria-label": `${row.prompt}: ${text}`,
  });
  drawing.append(svg("rect", { class: "ddm-rail-ground", width: "100%", y: 4, height: 9 }));
  let start = 0;
  for (const group of row.groups) {
    if (!known(group.share)) continue;
    const fill = `var(--ddm-series-${Math.max(names.indexOf(group.name), 0) % 8})`;
    drawing.append(svg("rect", { x: place(start), width: place(group.share), y: 4, height: 9, fill }));
    start += group.share;
  }
  return drawing;
}
