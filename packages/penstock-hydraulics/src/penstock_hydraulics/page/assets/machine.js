// A machine: its latest diagnosis, and its history as plots.

import * as api from "./api.js";
import { componentsOf, faultsOf, figuresOf, groundsOf, sensorsOf } from "./diagnosis.js";
import { dataTable, element, shown, when, words } from "./elements.js";
import { plot } from "./plots.js";

const HOUR_MS = 3_600_000;
const RANGES = [["day", 24], ["week", 168], ["month", 720], ["all", null]];
const MOST = 1000;
const LOSS_OF_RATE_1_H = 100; // a rate of 1 loses all health in 100 h

export async function readMachine(id, hours) {
  const from = hours === null ? null : new Date(Date.now() - hours * HOUR_MS).toISOString();
  const optional = (asked) => asked.catch((error) => {
    if (error.status === 404) return null;
    throw error;
  });
  const latest = await optional(api.latest(id));
  const past = latest && (await optional(api.history(id, { limit: MOST, from })));
  return { id, latest: latest?.answer ? latest : null, past, registered: latest?.equipment, known: latest !== null };
}

export function machineView({ id, latest, past, registered, known }, hours, choose) {
  const title = element("h2", { id: "machine-title", tabindex: "-1" }, id);
  const back = element("a", { class: "back", href: "#/" }, "← All machines");
  if (!known)
    return [element("div", { class: "card" }, back, title, element("p", {}, "No machine has this id, and nothing was diagnosed for it."))];
  const about = registered ? circuitOf(registered) : "not registered: the circuit is the request's, or assumed";
  const head = element("section", { class: "card", "aria-labelledby": "machine-title" }, back, title,
    element("p", { class: "quiet" }, about),
    latest
      ? [element("p", {}, "Latest window: ", element("time", { datetime: latest.timestamp }, when(latest.timestamp))), figuresOf(latest.answer)]
      : element("p", {}, "No whole answer is stored yet; the next diagnosis will be."));
  const results = past?.results ?? [];
  const history = historyOf(results, past?.next, latest?.answer, registered, hours, choose);
  if (!latest) return [head, history];
  return [head, groundsOf(latest.answer), history, element("div", { class: "two" }, componentsOf(latest.answer), faultsOf(latest.answer)),
    sensorsOf(latest.readings)];
}

function circuitOf({ topology, note }) {
  const name = typeof topology === "string" ? topology : (topology?.name ?? "a circuit of its own");
  return `Registered: ${name}${note ? ` · ${note}` : ""}`;
}

function historyOf(results, more, answer, registered, hours, choose) {
  const card = element("section", { class: "card" }, element("h3", {}, "History"), rangeOf(hours, choose));
  if (!results.length) {
    card.append(element("p", {}, "No results in this time."));
    return card;
  }
  if (more) card.append(element("p", { class: "quiet" }, `The latest ${MOST} results of this time are shown.`));
  const points = results.map((each) => [Date.parse(each.timestamp), each.health.score]);
  const failure = registered?.failure_health ?? 0.3;
  const trend = trendOf(points, answer?.degradation);
  const span = points.at(-1)[0] - points[0][0];
  card.append(
    plot({ title: `Health; failed below ${failure}${trend ? "; dashed: trend with its 95 % interval" : ""}`, points, low: 0, high: 1,
      limit: failure, trend, dots: results.length <= 60, x: dated(span) }),
    componentPlots(results, span), faultsIn(results), tableOf(results));
  return card;
}

function rangeOf(hours, choose) {
  const pick = element("select", { onchange: (event) => choose(event.target.value === "null" ? null : Number(event.target.value)) },
    RANGES.map(([name, value]) => element("option", { value: String(value), selected: value === hours }, name === "all" ? "all" : `last ${name}`)));
  return element("label", { class: "range" }, "Time ", pick);
}

const dated = (span) => (at) => new Date(at).toLocaleString(undefined, span > 48 * HOUR_MS ? { dateStyle: "medium" } : { dateStyle: "short", timeStyle: "short" });

// The line of the estimated rate through the last result, a fifth of the shown time further.
function trendOf(points, degradation) {
  const known = points.filter(([, y]) => y !== null);
  if (!degradation || degradation.basis !== "history" || !degradation.rate_interval || known.length < 2) return null;
  const [at, score] = known.at(-1);
  const ahead_h = Math.max(((at - known[0][0]) / HOUR_MS) * 0.2, 0.02);
  const after = (rate) => score - (rate / LOSS_OF_RATE_1_H) * ahead_h;
  const [slow, fast] = degradation.rate_interval;
  const end = at + ahead_h * HOUR_MS;
  return { from: [at, score], to: [end, after(degradation.rate)], low: after(fast), high: after(slow) };
}

function componentPlots(results, span) {
  const names = [...new Set(results.flatMap((each) => Object.keys(each.components)))].sort();
  const drawn = names.map((name) => plot({ title: name, low: 0, high: 1, width: 320, height: 120, x: dated(Math.max(span, 49 * HOUR_MS)),
    points: results.map((each) => [Date.parse(each.timestamp), each.components[name] ?? null]) }));
  return drawn.length ? element("div", {}, element("h4", {}, "Health of the components"), element("div", { class: "sensors" }, drawn)) : "";
}

function faultsIn(results) {
  const counted = new Map();
  for (const { detected_anomalies: found } of results) for (const name of found) counted.set(name, (counted.get(name) ?? 0) + 1);
  const said = [...counted].map(([name, times]) => `${words(name)} in ${times}`);
  return element("p", {}, said.length ? `Faults detected in these ${results.length} results: ${said.join(", ")}.` : `No fault was detected in these ${results.length} results.`);
}

function tableOf(results) {
  const heads = [{ text: "Time" }, { text: "Status" }, { text: "Health", number: true }, { text: "Coverage", number: true }, { text: "Faults" }, { text: "Model" }];
  const rows = results.slice(-50).reverse().map((each) => [when(each.timestamp), each.health.status, shown(each.health.score), shown(each.coverage),
    each.detected_anomalies.map(words).join(", ") || "–", each.model_version]);
  return element("details", {}, element("summary", {}, "The latest results as a table"), dataTable("Latest results, newest first", heads, rows));
}
