// Elements without markup: every text becomes a text node, so that no file name and no prompt is ever read as HTML.
// Texts are said in the language of the page.

import { say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

function build(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else made.setAttribute(name, value === true ? "" : value);
  }
  const shown = children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false);
  made.append(...shown.map((child) => (typeof child === "string" ? say(child) : child)));
  return made;
}

/** An HTML element. Attributes beginning with `on` are listeners; strings among the children are text. */
export const html = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);

/** An SVG element, as `html`. */
export const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);
