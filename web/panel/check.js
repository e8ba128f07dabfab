// Images with what a probe says of them, to be told whether it is right. The answers stay in a widget of the node.

import { html } from "./element.js";
import { imageAddress } from "./files.js";
import { percent } from "./number.js";
import { say } from "./words.js";

/**
 * The images of a check, and how often the probe is right by the answers so far.
 *
 * @param {object} check - as the node sends it: attribute, classes, unclear, fewest, images
 * @param {() => string} read - gives the answers that are kept, as JSON: {key: [said, truth]}
 * @param {(text: string) => void} write - keeps them
 */
export function checkView({ attribute, classes, unclear, fewest, images }, read, write) {
  const score = html("p", { class: "ddm-summary", role: "status" });
  const choices = [...classes, unclear];
  const tell = () => {
    const answers = parsed(read());
    const given = Object.values(answers).filter(([said, truth]) => classes.includes(said) && truth !== unclear);
    const parts = classes.map((name) => {
      const own = given.filter(([said]) => said === name);
      return own.length ? say(`${name}: ${own.filter(([, truth]) => truth === name).length} of ${own.length} right`) : "";
    });
    const all = Object.values(answers);
    const asked = (name) => Math.min(fewest, images.filter(({ said }) => said === name).length);
    const short = classes.some((name) => all.filter(([said]) => said === name).length < asked(name));
    score.textContent = given.length
      ? `${parts.filter(Boolean).join("; ")}. ${say(short ? `Answer ${fewest} of each class.` : "Queue again: the report is corrected by it.")}`
      : say(`Whom do you see? The probe's guess for ${attribute} is marked: confirm it, or choose another.`);
  };
  const answer = (one, truth) => {
    const answers = parsed(read());
    if (answers[one.key]?.[1] === truth) delete answers[one.key];
    else answers[one.key] = [one.said, truth];
    write(Object.keys(answers).length ? JSON.stringify(answers) : "");
    tell();
  };
  const rows = images.map((one) => imageView(one, choices, () => parsed(read())[one.key]?.[1], answer));
  const confirm = () => {
    for (const one of images) if (!parsed(read())[one.key]) answer(one, one.said);
    for (const { mark } of rows) mark();
  };
  tell();
  return [
    score,
    html("div", { class: "ddm-check" }, rows.map((row) => row.element)),
    html(
      "div",
      { class: "ddm-actions" },
      html("button", { type: "button", onclick: confirm }, "The rest is right"),
    ),
  ];
}

function imageView(one, choices, given, answer) {
  const buttons = choices.map((name) =>
    html(
      "button",
      {
        type: "button",
        class: name === one.said ? "ddm-guess" : undefined,
        onclick: () => {
          answer(one, name);
          mark();
        },
      },
      name,
    ),
  );
  const mark = () =>
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(given() === choices[k])));
  mark();
  const told = `${one.prompt}: ${one.said} (${percent(one.sure)})`;
  const element = html(
    "figure",
    { title: told },
    html("img", { src: imageAddress(one.file), alt: told, loading: "lazy" }),
    html("figcaption", {}, buttons),
  );
  return { element, mark };
}

function parsed(text) {
  try {
    const read = JSON.parse(text || "{}");
    return read && typeof read === "object" && !Array.isArray(read) ? read : {};
  } catch {
    return {};
  }
}
