// α over the sampling range, as DDM Alpha Schedule draws and applies it.

import { plotOf } from "./panel/curve.js";
import { html } from "./panel/element.js";
import { strength } from "./panel/number.js";

const LOWEST = -1;
const HIGHEST = 2;

/**
 * Corners of the curve, as `debias/schedule.py` has them.
 *
 * @param {{shape: string, alpha: number, alpha_end: number, switch: number, points: string}} values - of the widgets
 * @returns {{x: number, y: number}[]|string} positions x in 0 (pure noise) to 1 (the finished image), or what is wrong
 */
export function scheduleCorners({ shape, alpha, alpha_end: end, switch: change, points }) {
  if (shape === "constant") return withEnds([[0, alpha]]);
  if (shape === "ramp")
    return withEnds([
      [0, alpha],
      [1, end],
    ]);
  if (shape === "early")
    return withEnds([
      [0, alpha],
      [change, alpha],
      [change, end],
    ]);
  const parts = String(points ?? "")
    .split(/[,;]/)
    .filter((part) => part.trim());
  const pairs = parts.map((part) => part.split(":").map((one) => (one.trim() ? Number(one) : NaN)));
  if (!pairs.length || !pairs.every((pair) => pair.length === 2 && pair.every(Number.isFinite))) {
    return "Write the points as position:α pairs, such as 0:1, .4:.5, 1:0.";
  }
  if (pairs.some(([x]) => x < 0 || x > 1)) return "Positions run from 0, pure noise, to 1, the finished image.";
  if (pairs.some(([, y]) => y < LOWEST || y > HIGHEST)) return `Choose α between ${LOWEST} and ${HIGHEST}.`;
  return withEnds(pairs.sort((a, b) => a[0] - b[0]));
}

function withEnds(pairs) {
  const corners = pairs.map(([x, y]) => ({ x, y }));
  return [{ x: 0, y: corners[0].y }, ...corners, { x: 1, y: corners.at(-1).y }];
}

/** The curve for these widget values, or the sentence that says what is wrong. */
export function scheduleView(values) {
  const corners = scheduleCorners(values);
  if (typeof corners === "string") return [html("p", { class: "ddm-summary ddm-unfair" }, corners)];
  const levels = [0, 1, ...corners.map((corner) => corner.y)];
  const [low, high] = [Math.min(...levels), Math.max(...levels)];
  const room = (high - low) * 0.06;
  const told = corners.map((corner) => `${strength(corner.y)} at ${strength(corner.x)}`).join(", ");
  return [
    plotOf({
      label: `α over the sampling: ${told}`,
      series: [{ points: corners, marks: false }],
      x: [0, 1],
      y: [low - room, high + room],
      xTicks: [0, 0.5, 1].map((at) => ({ at, text: strength(at) })),
      yTicks: [...new Set([low, 0, 1, high])].map((at) => ({ at, text: strength(at) })),
      xTitle: "Sampling: 0 is pure noise, 1 the finished image",
      yTitle: "α",
    }),
  ];
}
