// The files of a report: the page opens in a tab of its own, the JSON is saved.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { html } from "./element.js";

// The host never shows HTML in place, so the page becomes a blob, which has the rights of this site. The report runs no
// script; should another file stand in its place, this keeps that one from running any. It comes first, so it counts.
const NO_SCRIPT = `<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'">`;
const KEPT_MS = 60_000;

const place = ({ filename, subfolder = "", type = "output" }) =>
  `/view?${new URLSearchParams({ filename, subfolder, type })}`;

/** Address of an image that a node has written. */
export const imageAddress = (file) => api.apiURL(place(file));

async function fetched(file) {
  const answer = await api.fetchApi(place(file));
  if (!answer.ok) throw new Error(`${file.filename} is not there any more. Queue the graph again to write it.`);
  return answer.text();
}

function tell(error) {
  app.extensionManager.toast.add({ severity: "warn", summary: "DDM", detail: error.message, life: 8000 });
}

/** Open the full report in a new tab, or offer it as a file where the browser allows no tab. */
export async function openReport(file) {
  const tab = window.open("", "_blank");
  try {
    const address = URL.createObjectURL(new Blob([NO_SCRIPT, await fetched(file)], { type: "text/html" }));
    if (tab) tab.location.replace(address);
    else download(address, file.filename);
    setTimeout(() => URL.revokeObjectURL(address), KEPT_MS);
  } catch (error) {
    tab?.close();
    tell(error);
  }
}

/** Save the report's JSON. */
export async function saveJson(file) {
  try {
    const address = URL.createObjectURL(new Blob([await fetched(file)], { type: "application/json" }));
    download(address, file.filename);
    setTimeout(() => URL.revokeObjectURL(address), KEPT_MS);
  } catch (error) {
    tell(error);
  }
}

function download(address, name) {
  html("a", { href: address, download: name }).click();
}
