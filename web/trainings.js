// The trainings of the server: they belong to a node of a workflow, whichever page started them.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

export const EVENT = "ddm.train";

/** Whether the trainer is at work. */
export const running = ({ phase }) => Boolean(phase) && phase !== "done" && phase !== "stopped";

/** All trainings that the server knows: `{ workflow, node, panel }`. */
export async function readTrainings() {
  const answer = await api.fetchApi("/ddm/trainings");
  return answer.ok ? answer.json() : [];
}

/** Ask the server to stop one; what was trained is kept. */
export function stopTraining({ workflow, node }) {
  const headers = { "Content-Type": "application/json" };
  return api.fetchApi("/ddm/trainings/stop", { method: "POST", headers, body: JSON.stringify({ workflow, node }) });
}

/** Whether what the server tells is of the open workflow; an event that names none is. */
export const isHere = ({ workflow }) => workflow === undefined || workflow === (app.rootGraph ?? app.graph).id;
