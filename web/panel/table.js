// The numbers behind the drawings, for screen readers and for whoever prefers to read.

import { html } from "./element.js";
import { distance, percent, qualityOf, strength } from "./number.js";

const cell = (value, i) => (i ? html("td", {}, value) : html("th", { scope: "row" }, value));

function table(caption, heads, rows) {
  return html(
    "table",
    {},
    html("caption", {}, caption),
    html(
      "thead",
      {},
      html(
        "tr",
        {},
        heads.map((head) => html("th", { scope: "col" }, head)),
      ),
    ),
    html(
      "tbody",
      {},
      rows.map((row) => html("tr", {}, row.map(cell))),
    ),
  );
}

const range = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

function ofAttribute({ name, groups, fd, floor }) {
  const compared = groups.some((group) => group.before);
  const heads = [
    name,
    ...(compared ? ["Before", "95% interval"] : []),
    compared ? "After" : "Share",
    "95% interval",
    "Target",
  ];
  const rows = groups.map((group) => [
    group.name,
    ...(compared ? [percent(group.before?.share), range(group.before ?? {})] : []),
    percent(group.share),
    range(group),
    percent(group.target),
  ]);
  const told = fd
    ? `${name}. FD ${distance(fd.value)} (${distance(fd.low)} to ${distance(fd.high)}), a fair model ${distance(floor)}.`
    : name;
  return table(told, heads, rows);
}

function ofPrompts(prompts) {
  const names = prompts[0].groups.map((group) => group.name);
  const rows = prompts.map((row) => [
    row.prompt,
    String(row.n),
    ...row.groups.map((group) => `${percent(group.share)}, ${range(group)}`),
  ]);
  return table("Prompts", ["Prompt", "Images", ...names], rows);
}

function ofPoints({ points, attributes }) {
  const names = attributes?.[0]?.groups.map((group) => group.name) ?? [];
  const rows = points.map((point) => [
    strength(point.alpha),
    ...names.map((_, k) => `${percent(shareOf(point, k).share)}, ${range(shareOf(point, k))}`),
    `${distance(point.fd)} (${distance(point.fd_low)} to ${distance(point.fd_high)})`,
    qualityOf(point),
  ]);
  return table("Strengths", ["α", ...names, "FD", points.at(-1).quality_name || "Quality"], rows);
}

/** The k-th share at a strength: with its interval in a sweep's panel, a plain number in an adapter's card. */
export const shareOf = (point, k) => point.groups?.[k] ?? { share: point.shares?.[k] };

/** All tables of a panel. */
export function numberTables(panel) {
  return [
    ...(panel.attributes ?? []).map(ofAttribute),
    ...(panel.kind === "sweep" && panel.points?.length ? [ofPoints(panel)] : []),
    ...(panel.prompts?.length ? [ofPrompts(panel.prompts)] : []),
  ];
}
