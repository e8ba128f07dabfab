// Work that goes on: what is done, how much of it, and the time that is left.

import { html } from "./element.js";
import { known } from "./number.js";

/**
 * @param {object} progress
 * @param {string} progress.doing - what goes on, in words
 * @param {number} [progress.total] - 0 or absent where nothing is counted
 * @param {string} [progress.unit] - what is counted
 */
export function progressView({ doing, done, total, unit = "", seconds_left: left }) {
  const counted = total > 0;
  return html(
    "div",
    { class: "ddm-progress" },
    html(
      "div",
      { class: "ddm-head", role: "status" },
      html("span", { class: "ddm-chip" }, doing),
      counted && html("span", {}, `${unit} ${Math.floor(done)} of ${total}`.trim()),
      known(left) && left > 0 && html("span", { class: "ddm-muted" }, `${duration(left)} left`),
    ),
    html("progress", { max: 1, value: counted ? done / total : undefined, "aria-label": doing }),
  );
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
