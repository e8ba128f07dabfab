// A panel's dictionary, as the nodes send it, turned into elements. Kinds: report, compare, sweep, audit, schedule, card.

import { html } from "./element.js";
import { openReport, saveJson } from "./files.js";
import { bounds, distance, known, percent } from "./number.js";
import { distanceMeter, legend, promptList, shareBars } from "./shares.js";
import { priceOfBalance, sweepPlots } from "./sweep.js";
import { numberTables } from "./table.js";

const SIGNS = { fair: "✓", unfair: "!", unknown: "?" };

const LONG = 48;
const MOST_NUMBERS = 24;

/** Everything a panel says, from its verdict down to its files. */
export function panelView(panel) {
  const [asked, others] = parted(panel);
  return [
    heading(panel),
    panel.headline && headlineView(panel.headline),
    panel.prompts?.length > 0 && panel.headline && promptNumbers(panel),
    panel.points?.length > 0 && panel.kind !== "audit" && sweepPlots(panel),
    asked.map(attributeView),
    asked.length > 0 && legend(asked),
    panel.points?.length > 0 && panel.kind === "audit" && priceOfBalance(panel),
    others.length > 0 && othersView(others),
    panel.prompts?.length > 1 && promptsView(panel),
    panel.remarks?.length > 0 && remarksView(panel.remarks),
    numbersView(panel),
    actions(panel),
  ].flat();
}

/** The verdict as sign, colour and words, then the summary. */
function heading({ verdict, summary, n }) {
  return [
    (verdict?.text || known(n)) &&
      html(
        "div",
        { class: "ddm-head" },
        verdict?.text && verdictView(verdict),
        known(n) && n > 0 && html("span", { class: "ddm-muted" }, n === 1 ? "1 image" : `${n} images`),
      ),
    summary && html("p", { class: "ddm-summary" }, summary),
  ];
}

/** The number that decides: the mean over prompts of the distance to the target, and the prompt furthest from it. */
function headlineView({ fd, floor, worst }) {
  const sure = [
    known(fd.low) && `${distance(fd.low)}–${distance(fd.high)}`,
    known(floor) && `a fair model up to ${distance(floor)}`,
  ].filter(Boolean);
  return html(
    "p",
    { class: "ddm-headline" },
    html("b", {}, distance(fd.value)),
    html("span", {}, " FD by prompt", html("small", {}, ` · ${sure.join("; ")}`)),
    worst &&
      html("small", { class: "ddm-worst" }, `Worst: “${worst.prompt}”, ${worst.group} ${percent(worst.share)}`),
  );
}

/** The share furthest above its target of each prompt, large, the worst prompt first. */
function promptNumbers({ prompts, attributes }) {
  const targets = attributes[0].groups.map((group) => group.target);
  const numbers = prompts.slice(0, MOST_NUMBERS).map(({ prompt, n, groups, verdict }) => {
    const excess = groups.map((group, k) => group.share - targets[k]);
    const top = groups[excess.indexOf(Math.max(...excess))];
    const { tone, text } = verdict ?? {};
    return html(
      "li",
      { title: [prompt, text].filter(Boolean).join(": ") },
      html("span", { class: "ddm-label" }, prompt),
      top && html("span", {}, html("b", { class: tone && `ddm-${tone}` }, percent(top.share)), ` ${top.name}`),
      html("small", {}, top ? `${bounds(top)} of ${n}` : `${n} undetermined`),
    );
  });
  return html("ol", { class: "ddm-numbers" }, numbers);
}

/** One verdict; its tone is fair, unfair or unknown. */
function verdictView({ tone, text }) {
  const kind = tone in SIGNS ? tone : "unknown";
  const long = text.length > LONG ? " ddm-long" : "";
  return html(
    "div",
    { class: `ddm-verdict ddm-${kind}${long}` },
    html("span", { "aria-hidden": "true" }, SIGNS[kind]),
    html("span", {}, text),
  );
}

/** Attributes with a target, and those without. Where none has any, the first one leads; an audit's are then unnamed. */
function parted({ kind, attributes = [] }) {
  const targeted = (one) => one.groups.some((group) => known(group.target));
  if (kind === "audit") return [attributes.filter(targeted), []];
  const asked = attributes.some(targeted) ? attributes.filter(targeted) : attributes.slice(0, 1);
  return [asked, attributes.filter((one) => !asked.includes(one))];
}

function attributeView(attribute) {
  const { name, undetermined, drift, groups, shift } = attribute;
  const moved = shift && `by prompt ${percent(shift.mean)} moved, at most ${percent(shift.worst_shift)} (${shift.worst})`;
  const notes = [undetermined > 0 && `${undetermined} undetermined`, drift, moved].filter(Boolean);
  return html(
    "section",
    { class: "ddm-attribute" },
    html(
      "h4",
      {},
      words(name),
      notes.map((note) => html("small", {}, ` · ${note}`)),
    ),
    shareBars(attribute),
    groups.some((group) => known(group.target)) && distanceMeter(attribute),
  );
}

function othersView(others) {
  const names = others.map((one) => words(one.name)).join(", ");
  return html(
    "details",
    {},
    html("summary", {}, `Not asked to change: ${names}`),
    others.map(attributeView),
    legend(others),
  );
}

const words = (name) => String(name).replaceAll("_", " ");

function promptsView({ prompts, attributes }) {
  const names = attributes?.[0]?.groups.map((group) => group.name) ?? prompts[0].groups.map((group) => group.name);
  return html("details", {}, html("summary", {}, `Prompt by prompt (${prompts.length})`), promptList(prompts, names));
}

/** What else to know, folded. */
export function remarksView(remarks) {
  const list = html(
    "ul",
    {},
    remarks.map((one) => html("li", {}, one)),
  );
  return html("details", {}, html("summary", {}, `What else to know (${remarks.length})`), list);
}

function numbersView(panel) {
  const tables = numberTables(panel);
  return tables.length > 0 && html("details", {}, html("summary", {}, "As a table"), tables);
}

function actions(panel) {
  const { html: page, json } = panel.files ?? {};
  if (!page && !json) return null;
  return html(
    "div",
    { class: "ddm-actions" },
    page && html("button", { type: "button", onclick: () => openReport(page) }, "Open full report"),
    json && html("button", { type: "button", onclick: () => saveJson(json) }, "Save JSON"),
  );
}
