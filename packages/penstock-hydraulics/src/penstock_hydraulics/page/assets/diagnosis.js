// One diagnosis: what it says, and what it rests on.

import { badge, dataTable, element, percent, shown, words } from "./elements.js";
import { plot } from "./plots.js";

const BASIS = {
  measured: "states of all components that can fail, from sensors that were shown to tell them",
  partial: "states of some of the components that can fail; the others were not judged",
  unmeasured: "states whose accuracy was not measured for this circuit, model or window",
  rules: "limits and physical ratios alone, without the model",
  unavailable: "nothing: these sensors tell nothing about health",
};
const TREND = {
  history: "the trend of the stored results",
  nominal: "this result alone: the loss so far, not its speed",
  none: "nothing: there is no trend",
};
const FAULT_BASIS = {
  supervised: "learned from recordings of this fault",
  proxy: "learned from a similar state or from simulations",
  rule: "a limit or a physical ratio",
  unavailable: "not judged",
};
const UNITS = { pressure: "bar", flow: "l/min", temperature: "°C", vibration: "mm/s", power: "W" };

export function figuresOf(answer) {
  const { health, degradation, coverage } = answer;
  const hours = degradation.time_to_failure_hours;
  const figure = (name, value, more) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, more) : null));
  return element("dl", { class: "figures" },
    figure("Status", badge(health.status)),
    figure("Health", shown(health.score), "1 as new, 0 failed"),
    figure("Coverage", percent(coverage), "of the evidence"),
    figure("Time to failure", hours === null ? "–" : duration(hours), interval(degradation, hours)));
}

function interval(degradation, hours) {
  if (hours === null) return "no certain decline";
  const [low, high] = degradation.time_to_failure_interval_hours ?? [];
  const same = low !== undefined && high !== null && duration(low) === duration(high);
  return low === undefined || same ? null : `95 %: ${duration(low)} to ${high === null ? "never" : duration(high)}`;
}

function duration(hours) {
  if (hours < 0.05) return "now";
  if (hours >= 10000) return "over a year";
  return hours >= 72 ? `${Math.round(hours / 24)} days` : `${shown(hours, hours < 10 ? 1 : 0)} h`;
}

export function groundsOf(answer) {
  const { health, degradation, warnings, unknown_sensors: unknown } = answer;
  return element("section", { class: "card" },
    element("h3", {}, "What this rests on"),
    element("p", {}, element("strong", {}, `Health (${health.basis}): `), BASIS[health.basis] ?? health.basis, "."),
    element("p", {}, element("strong", {}, `Trend (${degradation.basis}): `), TREND[degradation.basis] ?? degradation.basis, "."),
    element("p", { class: "quiet" },
      `Coverage ${percent(answer.coverage)} · circuit ${answer.topology} · model ${answer.model_version}`),
    warnings.length
      ? [element("h4", {}, `Warnings (${warnings.length})`),
         element("ul", { class: "warnings" }, warnings.map((each) => element("li", {}, each)))]
      : element("p", {}, "No warnings."),
    unknown.length ? element("p", {}, `Ignored, since they are not in the circuit: ${unknown.join(", ")}.`) : null);
}

export function componentsOf(answer) {
  const row = ({ component_id: id, type, health, state, coverage }) => {
    const sure = state ? Math.max(...Object.values(state.probabilities)) : null;
    const level = state ? `${words(state.name)}: ${state.level}${state.unit && ` ${state.unit}`} (${percent(sure)})` : "not judged";
    return [id, words(type), level, shown(health), health === null ? "–" : percent(coverage)];
  };
  const heads = [{ text: "Component" }, { text: "Type" }, { text: "State (confidence)" },
    { text: "Health", number: true }, { text: "Coverage", number: true }];
  return element("section", { class: "card" }, element("h3", {}, "Components"),
    dataTable("Components: 1 as new, 0 failed", heads, answer.components.map(row)));
}

export function faultsOf(answer) {
  const { predictions, thresholds, basis, detected_anomalies: detected } = answer.anomaly;
  const names = Object.keys(predictions).sort((a, b) => detected.includes(b) - detected.includes(a) || (predictions[b] ?? -1) - (predictions[a] ?? -1));
  const row = (name) => [words(name), predictions[name] === null ? "–" : detected.includes(name) ? "detected" : "not seen",
    shown(predictions[name]), shown(thresholds[name]), FAULT_BASIS[basis[name]] ?? basis[name]];
  const heads = [{ text: "Fault" }, { text: "Found" }, { text: "Score", number: true }, { text: "Threshold", number: true }, { text: "Basis" }];
  return element("section", { class: "card" }, element("h3", {}, "Faults"),
    dataTable("Faults: score from 0 to 1", heads, names.map(row)));
}

export function sensorsOf(readings, seconds = (place) => place) {
  const drawn = Object.entries(readings).map(([name, values]) => {
    const unit = UNITS[name.split("_")[0]];
    const points = values.map((value, place) => [seconds(place, name), value]);
    return plot({ title: `${name}${unit ? ` [${unit}]` : ""}`, points, width: 320, height: 130, x: (at) => `${Math.round(at)} s` });
  });
  return element("section", { class: "card" }, element("h3", {}, "Sensors of the last window"),
    drawn.length ? element("div", { class: "sensors" }, drawn) : element("p", { class: "quiet" }, "No readings are stored."));
}
