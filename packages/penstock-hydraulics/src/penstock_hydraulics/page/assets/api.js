// Requests to this server, with the key that the reader gave. The page may be below a path of a proxy.

const BASE = new URL("../../", import.meta.url);
const KEY = "penstock-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

async function ask(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store" });
  } catch {
    throw new Refused(0, "The server cannot be reached.");
  }
  const text = await reply.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // a proxy may answer with a page of its own
  }
  if (!reply.ok || body === null) throw new Refused(reply.status, body?.detail ?? `The server answered ${reply.status}.`);
  return body;
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value != null));

export const machines = (values) => ask(`hydraulics/machines?${query(values)}`);
export const latest = (id) => ask(`equipment/${encodeURIComponent(id)}/latest`);
export const history = (id, values) => ask(`equipment/${encodeURIComponent(id)}/history?${query(values)}`);
export const topologies = () => ask("topologies");
// Without the name of a model, which the list of machines tells, the default one answers.
export const diagnose = (model, request) =>
  ask(model ? `models/${encodeURIComponent(model)}/predict` : "predict", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
  });
