// How figures are written, the same in every panel and in the full report.

/** A share in whole percent. */
export const percent = (share) => (known(share) ? `${Math.round(100 * share)}%` : "–");

/** An interval of a share, as `83–88`; empty where it is not known. */
export const bounds = ({ low, high }) =>
  known(low) && known(high) ? `${Math.round(100 * low)}–${Math.round(100 * high)}` : "";

/** A share with its interval, as `86% (83–88)`. */
export const percentRange = (one) => (bounds(one) ? `${percent(one.share)} (${bounds(one)})` : percent(one.share));

/** A distance with two digits. */
export const distance = (value) => (known(value) ? value.toFixed(2) : "–");

/** An α, without zeros at the end. */
export const strength = (alpha) => (known(alpha) ? String(Math.round(1000 * alpha) / 1000) : "–");

/** The quality at a strength of a sweep: a share of images, or a distance. */
export const qualityOf = ({ quality, quality_name: name }) => (isShare(name) ? percent(quality) : distance(quality));

/** Whether a quality of this name is a share of images, which should be high; the others are distances. */
export const isShare = (name) => String(name).includes("recognised");

/** Whether it is a finite number. */
export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Percent on a drawing, as an attribute or a length; `at` is in 0 to 1 and is kept there. */
export const place = (at) => `${(100 * Math.min(Math.max(at, 0), 1)).toFixed(2)}%`;
