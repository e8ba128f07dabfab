// What a sweep over α shows: shares over α, and the distance to the target against quality.

import { plotOf } from "./curve.js";
import { html } from "./element.js";
import { distance, isShare, known, percent, qualityOf, strength } from "./number.js";
import { shareOf } from "./table.js";

/** Plots of a sweep's points; the recommended α is a line upright. */
export function sweepPlots(panel) {
  return html("section", { class: "ddm-plots" }, distanceOverAlpha(panel), sharesOverAlpha(panel), pareto(panel));
}

const rangeOf = (values, least) => {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(high - low, least) * 0.12;
  return [low - room, high + room];
};

/** From a round share below all of them up to 100%. */
const shareRange = (values) => [Math.max(Math.floor(Math.min(...values) * 10 - 1) / 10, 0), 1];

const alphaTicks = (points) => points.map((point) => ({ at: point.alpha, text: strength(point.alpha) }));

const cursorOf = ({ recommended_alpha: alpha }) =>
  known(alpha) ? { x: alpha, text: `recommended ${strength(alpha)}` } : undefined;

/** Shares [points × groups] over α; null where the points carry none. */
export function sharesOverAlpha({ points, attributes, recommended_alpha }, cursor = cursorOf({ recommended_alpha })) {
  const groups = attributes?.[0]?.groups ?? [];
  if (!groups.length || !points.some((point) => known(shareOf(point, 0).share))) return null;
  const series = groups.map((group, k) => ({
    name: group.name,
    points: points.map((point) => ({ x: point.alpha, ...spread(shareOf(point, k)) })),
  }));
  const alphas = points.map((point) => point.alpha);
  const said = points.map(
    (point) =>
      `α ${strength(point.alpha)}: ${groups.map((one, k) => `${one.name} ${percent(shareOf(point, k).share)}`).join(", ")}`,
  );
  return plotOf({
    label: `Shares over α. ${said.join("; ")}`,
    series,
    x: [Math.min(...alphas), Math.max(...alphas)],
    y: [0, 1],
    xTicks: alphaTicks(points),
    yTicks: [0, 0.5, 1].map((at) => ({ at, text: percent(at) })),
    xTitle: "α",
    yTitle: "Share, all prompts",
    targets: groups.map((group) => group.target).filter(known),
    cursor,
  });
}

const spread = ({ share, low, high }) => ({ y: share, low, high });

/** FD over α, with what a fair model would show as the ground. */
export function distanceOverAlpha({ points, recommended_alpha, unmarked }, cursor = cursorOf({ recommended_alpha })) {
  const shown = points.filter((point) => known(point.fd));
  if (shown.length < 2) return null;
  const alphas = shown.map((point) => point.alpha);
  const top = Math.max(0.2, ...shown.map((point) => point.fd_high ?? point.fd)) * 1.08;
  const floor = Math.max(0, ...shown.map((point) => point.floor_high ?? point.floor ?? 0));
  return plotOf({
    label: `Distance to the target over α. ${shown.map((one) => `α ${strength(one.alpha)}: ${distance(one.fd)}`).join("; ")}`,
    series: [
      {
        points: shown.map((one) => ({ x: one.alpha, y: one.fd, low: one.fd_low, high: one.fd_high })),
        marks: !unmarked,
      },
    ],
    x: [Math.min(...alphas), Math.max(...alphas)],
    y: [0, top],
    xTicks: roundAlphas(shown),
    yTicks: [0, top / 2].map((at) => ({ at, text: distance(at) })),
    xTitle: "α",
    yTitle: "FD by prompt",
    band: floor > 0 ? { low: 0, high: floor } : undefined,
    cursor,
  });
}

/** FD against quality: each α is one point. */
function pareto({ points }) {
  const shown = points.filter((point) => known(point.fd) && known(point.quality));
  if (shown.length < 2) return null;
  const name = shown.at(-1).quality_name || "quality";
  const x = rangeOf(
    shown.map((one) => one.fd),
    0.05,
  );
  const y = isShare(name)
    ? shareRange(shown.map((one) => one.quality))
    : rangeOf(
        shown.map((one) => one.quality),
        0.02,
      );
  const ticks = (range, write) =>
    [0.1, 0.9].map((part) => range[0] + part * (range[1] - range[0])).map((at) => ({ at, text: write(at) }));
  const told = shown.map((one) => `α ${strength(one.alpha)}: FD ${distance(one.fd)}, ${name} ${qualityOf(one)}`);
  return plotOf({
    label: `Fairness against quality. ${told.join("; ")}`,
    series: [{ points: shown.map((one) => ({ x: one.fd, y: one.quality, label: `α ${strength(one.alpha)}` })) }],
    x,
    y,
    xTicks: ticks(x, distance),
    yTicks: isShare(name) ? [y[0], 1].map((at) => ({ at, text: percent(at) })) : ticks(y, distance),
    xTitle: "FD by prompt: further left is fairer",
    yTitle: `${name[0].toUpperCase()}${name.slice(1)}: ${isShare(name) ? "higher" : "lower"} is better`,
  });
}

/** What balance costs a folder: how many of its images carry the weight at each α. */
export function priceOfBalance({ points, recommended_alpha }) {
  const shown = points.filter((point) => known(point.images));
  if (shown.length < 2) return null;
  const top = Math.max(...shown.map((one) => one.images)) * 1.05;
  const last = shown.at(-1);
  return plotOf({
    label: `Images that carry the weight: ${Math.round(shown[0].images)} at α ${strength(shown[0].alpha)}, ${Math.round(last.images)} at α ${strength(last.alpha)}`,
    series: [{ points: shown.map((one) => ({ x: one.alpha, y: one.images })), marks: shown.length < 9 }],
    x: [shown[0].alpha, last.alpha],
    y: [0, top],
    xTicks: roundAlphas(shown),
    yTicks: [0, top / 2].map((at) => ({ at, text: String(Math.round(at)) })),
    xTitle: "α",
    yTitle: "Images that carry the weight",
    cursor: cursorOf({ recommended_alpha }),
  });
}

/** Ticks at the measured strengths, or at halves where these are many. */
function roundAlphas(points) {
  if (points.length < 9) return alphaTicks(points);
  const [low, high] = [points[0].alpha, points.at(-1).alpha];
  return [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    .filter((at) => at >= low && at <= high)
    .map((at) => ({ at, text: strength(at) }));
}
