// Adapters and their fairness cards, read from the metadata that the host already serves.

import { api } from "../../scripts/api.js";

const known = new Map();

/** Names of all LoRA files that the host lists. */
export async function adapterNames() {
  const answer = await api.fetchApi("/models/loras");
  return answer.ok ? answer.json() : [];
}

/**
 * The card in a LoRA file.
 *
 * @returns {Promise<object|null>} its `ddm.*` values; null for a LoRA that this project did not write
 */
export function adapterCard(name, { again = false } = {}) {
  if (again || !known.has(name))
    known.set(
      name,
      read(name).catch(() => null),
    );
  return known.get(name);
}

async function read(name) {
  const answer = await api.fetchApi(`/view_metadata/loras?${new URLSearchParams({ filename: name })}`);
  if (!answer.ok) return null;
  const metadata = await answer.json();
  if (!("ddm.format_version" in metadata)) return null;
  const values = Object.entries(metadata).filter(([key]) => key.startsWith("ddm."));
  return Object.fromEntries(values.map(([key, value]) => [key.slice("ddm.".length), JSON.parse(value)]));
}
