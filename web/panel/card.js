// The fairness card of an adapter: what it was trained for, and what it was measured to do.

import { html } from "./element.js";
import { known, percent, strength } from "./number.js";
import { distanceOverAlpha, sharesOverAlpha } from "./sweep.js";

const SOURCES = {
  discovered: "no labels: what is out of balance in the images",
  auto: "no labels: the model's own list of words",
};

/**
 * A card.
 *
 * @param {object|null} card - as read from the file; null for a LoRA without one
 * @param {{alpha?: number, use?: (alpha: number) => void}} [now] - the strength in use, and how to set it
 */
export function cardView(card, { alpha, use } = {}) {
  if (!card)
    return [
      html(
        "p",
        { class: "ddm-summary ddm-muted" },
        "This LoRA has no fairness card: nobody has said what its strengths do.",
      ),
    ];
  if (card.objective === "style") return [html("p", { class: "ddm-summary" }, card.description)];
  const best = card.recommended_alpha;
  const away = known(alpha) && known(best) && Math.abs(alpha - best) > 1e-6;
  return [
    html(
      "div",
      { class: "ddm-head" },
      html("span", { class: "ddm-chip" }, `recommended α ${strength(best)}`),
      away &&
        use &&
        html("button", { type: "button", class: "ddm-link", onclick: () => use(best) }, `Use ${strength(best)}`),
      html("span", { class: "ddm-muted" }, card.measured ? "measured" : "predicted"),
    ),
    curve(card, alpha),
    html(
      "dl",
      { class: "ddm-facts" },
      facts(card).map(([term, value]) => [html("dt", {}, term), html("dd", {}, value)]),
    ),
  ];
}

function curve({ measured, predicted, target, recommended_alpha }, alpha) {
  const cursor = known(alpha) ? { x: alpha, text: `α ${strength(alpha)}` } : undefined;
  const inside = (points) => (cursor && alpha >= points[0].alpha && alpha <= points.at(-1).alpha ? cursor : undefined);
  if (measured?.points?.length > 1) {
    const groups = measured.classes.map((name, k) => ({ name, target: measured.target?.[k] }));
    const panel = { points: measured.points, attributes: [{ groups }], recommended_alpha };
    const cursor = inside(measured.points);
    return html("section", { class: "ddm-plots" }, distanceOverAlpha(panel, cursor), sharesOverAlpha(panel, cursor));
  }
  if (!target || !(predicted?.length > 1)) return null;
  return distanceOverAlpha({ points: predicted, recommended_alpha, unmarked: true }, inside(predicted));
}

function facts({ groups, target, base_hash, concepts, training, measured, alpha_max, recommended_alpha }) {
  const shares = target && Object.entries(target).map(([name, share]) => `${name} ${percent(share)}`);
  return [
    ["Groups", SOURCES[groups] ?? groups],
    ["Target", shares?.join(", ") ?? "balance of whatever stands out"],
    [
      "Trained on",
      [training?.images && `${training.images} images`, concepts?.length && `${concepts.length} concepts`]
        .filter(Boolean)
        .join(", "),
    ],
    ["Strengths", `0 to ${strength(alpha_max)}`],
    [
      "Measured",
      measured
        ? `${measured.points.reduce((sum, one) => sum + one.images, 0)} images of ${measured.prompts} prompts`
        : "not yet: DDM Alpha Sweep does it",
    ],
    ["Worst prompt", worstAt(measured, recommended_alpha)],
    ["Base model", base_hash ? base_hash.slice(0, 10) : ""],
  ].filter(([, value]) => value);
}

function worstAt(measured, alpha) {
  const worst = measured?.points.find((one) => one.alpha === alpha)?.worst_prompt;
  return worst && `“${worst.prompt}”: ${worst.group} ${percent(worst.share)} at α ${strength(alpha)}`;
}
