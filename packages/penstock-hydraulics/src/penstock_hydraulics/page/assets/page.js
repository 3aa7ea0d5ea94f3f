// The page: which view is shown, the list of machines, the form of a cycle, and what is said while something is missing.

import * as api from "./api.js";
import { CsvError, readCycle } from "./csv.js";
import { componentsOf, faultsOf, figuresOf, groundsOf, sensorsOf } from "./diagnosis.js";
import { badge, byId, element, shown, when, words } from "./elements.js";
import { machineView, readMachine } from "./machine.js";

const REFRESH_MS = 15_000;
const LARGEST_FILE = 16 * 2 ** 20;
const state = { view: "list", machine: null, hours: 168, after: [], next: null, models: [], readAt: null, turn: 0 };

// Views

function route() {
  const [, view, id] = location.hash.split("/");
  state.machine = view === "machine" && id ? decoded(id) : null;
  state.view = state.machine ? "machine" : view === "diagnose" ? "diagnose" : "list";
  document.body.dataset.view = state.view;
  byId("empty").hidden = state.view !== "list";
  byId("machine").hidden = state.view !== "machine";
  byId("diagnose").hidden = state.view !== "diagnose";
  document.title = state.machine ? `${state.machine} · Hydraulic machines` : "Hydraulic machines";
  markCurrent();
  if (state.view === "machine") {
    byId("machine").replaceChildren(element("div", { class: "card" }, element("p", {}, `Reading ${state.machine} …`)));
    showMachine(true);
  } else if (state.view === "diagnose") {
    byId("diagnose-title").focus();
    readCircuits();
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// What is missing

function explain(error) {
  const reason = error.message;
  if (error.status === 401 || error.status === 403) {
    byId("access").hidden = false;
    byId("access-why").textContent = api.hasKey() ? reason : "Without a key, nothing can be shown.";
    if (document.activeElement === document.body) byId("key").focus();
    return say("");
  }
  const old = state.readAt ? ` What is shown was read at ${when(state.readAt)}.` : "";
  say(`${reason[0].toUpperCase()}${reason.slice(1)}${/[.!?]$/.test(reason) ? "" : "."}${old}`);
}

function say(text) {
  const notice = byId("notice");
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

function answered() {
  state.readAt = new Date();
  byId("access").hidden = true;
  say("");
}

// The list

async function showMachines() {
  const turn = ++state.turn;
  const wanted = { search: byId("search").value.trim(), status: byId("status").value, limit: 100 };
  try {
    const pages = [];
    let page = { next: "" };
    do {
      page = await api.machines({ ...wanted, after: page.next });
      pages.push(...page.machines);
    } while (page.next && pages.length < 100 * (state.after.length + 1));
    if (turn !== state.turn) return;
    answered();
    state.models = page.models;
    state.next = page.next;
    fillList(pages, page.counts, wanted);
  } catch (error) {
    if (turn === state.turn) explain(error);
  }
}

function fillList(found, counts, wanted) {
  const list = byId("machines");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  list.replaceChildren(...found.map(itemOf));
  if (focused) [...list.querySelectorAll("a")].find((each) => each.dataset.id === focused)?.focus();
  const said = ["critical", "warning", "unknown", "healthy"].filter((name) => counts[name]).map((name) => `${counts[name]} ${name}`);
  const all = wanted.search || wanted.status ? `${found.length}${state.next ? " or more" : ""} found` : said.join(" · ");
  byId("counts").textContent = found.length
    ? all || "Nothing was diagnosed yet."
    : wanted.search || wanted.status ? "No machine is like this." : "No machine yet. Each one appears here with its first diagnosis, or when it is registered.";
  byId("more").hidden = !state.next;
  markCurrent();
}

function itemOf(machine) {
  const { equipment_id: id, timestamp, health, detected_anomalies: faults } = machine;
  const about = timestamp
    ? `health ${shown(health.score)} · ${when(timestamp)}${faults.length ? ` · ${faults.map(words).join(", ")}` : ""}`
    : "registered";
  return element("li", {}, element("a", { href: `#/machine/${encodeURIComponent(id)}`, "data-id": id },
    element("span", { class: "id" }, id), badge(health?.status), element("span", { class: "quiet" }, about)));
}

function markCurrent() {
  for (const link of byId("machines").querySelectorAll("a")) {
    if (link.dataset.id === state.machine) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

// A machine

async function showMachine(first = false) {
  const id = state.machine;
  try {
    const found = await readMachine(id, state.hours);
    if (id !== state.machine) return;
    const open = byId("machine").querySelector("details")?.open;
    const picking = byId("machine").contains(document.activeElement) && document.activeElement.tagName === "SELECT";
    byId("machine").replaceChildren(...machineView(found, state.hours, chooseTime));
    if (open) byId("machine").querySelector("details").open = true;
    if (picking) byId("machine").querySelector("select")?.focus();
    if (first) byId("machine-title").focus();
    answered();
  } catch (error) {
    explain(error);
    if (first && id === state.machine)
      byId("machine").replaceChildren(element("div", { class: "card" }, element("a", { class: "back", href: "#/" }, "← All machines"),
        element("h2", { id: "machine-title", tabindex: "-1" }, id), element("p", {}, "Its history cannot be read now; it is tried again every 15 s.")));
  }
}

function chooseTime(hours) {
  state.hours = hours;
  showMachine();
}

// The form

async function readCircuits() {
  const pick = byId("circuit");
  if (pick.options.length > 1) return;
  try {
    const { topologies } = await api.topologies();
    pick.append(...topologies.map(({ name }) => element("option", { value: name }, name)));
  } catch (error) {
    explain(error);
  }
}

function readForm() {
  const problem = byId("problem"), preview = byId("preview");
  problem.hidden = true;
  preview.textContent = "";
  if (!byId("csv").value.trim()) return null;
  try {
    const cycle = readCycle(byId("csv").value, Number(byId("seconds").value) || null);
    const rates = [...new Set(Object.values(cycle.sampling_rate_hz))].sort((a, b) => a - b);
    preview.textContent = `${Object.keys(cycle.sensor_data).length} sensors, ${cycle.rows} lines, ${shown(cycle.seconds, 0)} s; rates: ${rates.map((hz) => `${Number(hz.toPrecision(3))} Hz`).join(", ")}`;
    return cycle;
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    refuse(error.message);
    return null;
  }
}

function refuse(sentence) {
  byId("problem").textContent = sentence;
  byId("problem").hidden = false;
}

async function readFile() {
  const [file] = byId("file").files;
  if (!file) return;
  if (file.size > LARGEST_FILE) return refuse(`${file.name} is larger than 16 MiB; send one cycle.`);
  const bytes = await file.arrayBuffer();
  const utf16 = [[0xff, 0xfe, "utf-16le"], [0xfe, 0xff, "utf-16be"]].find(([a, b]) => new Uint8Array(bytes)[0] === a && new Uint8Array(bytes)[1] === b);
  byId("csv").value = new TextDecoder(utf16?.[2] ?? "utf-8").decode(bytes);
  readForm();
}

async function sendCycle(event) {
  event.preventDefault();
  byId("answer").replaceChildren();
  const cycle = readForm();
  if (!cycle) {
    if (byId("problem").hidden) refuse("Paste a cycle, or choose a file.");
    return;
  }
  const { sensor_data, sampling_rate_hz, timestamp } = cycle;
  const topology = byId("circuit").value;
  const request = { equipment_id: byId("equipment").value.trim(), sensor_data, sampling_rate_hz,
    ...(timestamp ? { timestamp } : {}), ...(topology ? { topology } : {}) };
  byId("send").disabled = true;
  try {
    showAnswer(await api.diagnose(state.models[0], request), cycle);
    showMachines();
  } catch (error) {
    if (error.status === 401 || error.status === 403) explain(error);
    refuse(error.message);
  } finally {
    byId("send").disabled = false;
  }
}

function showAnswer(answer, cycle) {
  const title = element("h2", { tabindex: "-1" }, `Diagnosis of ${answer.equipment_id}`);
  const seconds = (place, name) => place / cycle.sampling_rate_hz[name];
  byId("answer").replaceChildren(
    element("section", { class: "card" }, title, figuresOf(answer),
      element("a", { href: `#/machine/${encodeURIComponent(answer.equipment_id)}` }, "The history of this machine")),
    groundsOf(answer), element("div", { class: "two" }, componentsOf(answer), faultsOf(answer)), sensorsOf(cycle.sensor_data, seconds));
  title.focus();
}

// Events

function refresh() {
  if (document.hidden) return;
  showMachines();
  if (state.view === "machine") showMachine();
}

let typing;
addEventListener("hashchange", route);
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(filter, 200);
});
byId("status").addEventListener("change", filter);
byId("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  filter();
});
byId("more").addEventListener("click", () => {
  state.after.push(state.next);
  showMachines();
});
byId("csv").addEventListener("input", readForm);
byId("seconds").addEventListener("input", readForm);
byId("file").addEventListener("change", readFile);
byId("cycle").addEventListener("submit", sendCycle);
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey(byId("key").value.trim());
  byId("key").value = "";
  refresh();
  if (state.view === "diagnose") readCircuits();
});
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, REFRESH_MS);

function filter() {
  state.after = [];
  showMachines();
}

route();
showMachines();
