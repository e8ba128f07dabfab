// A training while it goes on, and what came of it: phase, loss curve, previews, groups, and the card at the end.

import { running } from "../trainings.js";
import { cardView } from "./card.js";
import { plotOf } from "./curve.js";
import { html } from "./element.js";
import { imageAddress } from "./files.js";
import { known, percent } from "./number.js";
import { progressView } from "./progress.js";
import { shareBars } from "./shares.js";
import { remarksView } from "./view.js";

/**
 * The view of a training, with what its button does. Its button and its image stay the same elements from one drawing to the next, which come
 * several times a second: a click must not be lost, and an image must not flicker.
 */
export function trainingView(onStop) {
  const stop = actions(onStop);
  const preview = previewOf();
  return (panel) =>
    [
      running(panel) ? progressView(counted(panel)) : panel.summary && html("p", { class: "ddm-summary" }, panel.summary),
      running(panel) && stop,
      panel.losses?.length > 1 && lossPlot(panel),
      panel.preview && preview(panel.preview),
      panel.accuracy && accuracyPlot(panel.accuracy),
      panel.phase !== "done" ? (panel.attributes ?? []).map(groupsView) : panel.card && cardView(panel.card),
      panel.phase === "done" && foundView(panel),
      panel.remarks?.length > 0 && remarksView(panel.remarks),
    ].flat();
}

/** Before the first step nothing is counted. */
function counted({ phase, total, ...panel }) {
  return { ...panel, total: phase === "starting" ? 0 : total, unit: phase === "training" ? "step" : "" };
}

function actions(onStop) {
  const stop = html("button", { type: "button", onclick: onStop }, "Stop and keep what was trained");
  return html("div", { class: "ddm-actions" }, stop);
}

function lossPlot({ losses, ess }) {
  const values = losses.map(([, loss]) => loss);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(high - low, 1e-4) * 0.1;
  const [first, last] = [losses[0][0], losses.at(-1)[0]];
  return plotOf({
    label: `Loss over the steps: ${values[0].toFixed(4)} at step ${first}, ${values.at(-1).toFixed(4)} at step ${last}`,
    series: [{ name: values.at(-1).toFixed(3), points: losses.map(([x, y]) => ({ x, y })), marks: false }],
    x: [first, last],
    y: [low - room, high + room],
    xTicks: [first, last].map((at) => ({ at, text: String(at) })),
    yTicks: [low, high].map((at) => ({ at, text: at.toFixed(3) })),
    xTitle: known(ess) ? `Step. At α = 1, ${percent(ess)} of the images carry the weight.` : "Step",
    yTitle: "Loss",
  });
}

/** How often a head is right at each noise level; it works where that is high. */
function accuracyPlot(accuracy) {
  const points = accuracy.map(([x, y]) => ({ x, y }));
  return plotOf({
    label: `Right, by noise: ${accuracy.map(([at, share]) => `${percent(share)} at ${at}`).join(", ")}`,
    series: [{ points }],
    x: [0, 1000],
    y: [0, 1],
    xTicks: [0, 500, 1000].map((at) => ({ at, text: String(at) })),
    yTicks: [0, 0.5, 1].map((at) => ({ at, text: percent(at) })),
    xTitle: "Noise: 0 is the finished image, 1000 pure noise",
    yTitle: "Right",
  });
}

function previewOf() {
  const [caption, image] = [html("figcaption"), html("img")];
  const figure = html("figure", { class: "ddm-preview" }, caption, image);
  return ({ step, file }) => {
    const address = imageAddress(file);
    if (image.getAttribute("src") !== address) image.setAttribute("src", address);
    image.alt = `The same seeds without the adapter and with it, at step ${step}`;
    caption.replaceChildren(image.alt);
    return figure;
  };
}

function groupsView(attribute) {
  return html(
    "section",
    { class: "ddm-attribute" },
    html("h4", {}, `In the folder (${attribute.name})`),
    shareBars(attribute),
  );
}

function foundView({ attributes }) {
  return (
    attributes?.length > 0 &&
    html("details", {}, html("summary", {}, "What is in the folder"), attributes.map(groupsView))
  );
}
