// Elements without HTML in text: what a machine is called is shown as it is, and runs nothing.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const when = (iso) => TIME.format(new Date(iso));
export const shown = (value, digits = 2) => (value === null || value === undefined ? "–" : Number(value).toFixed(digits));
export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)}\u00a0%`);
export const words = (name) => name.replaceAll("_", " ");

export const badge = (status) => element("span", { class: `status ${status ?? "unknown"}` }, status ?? "no diagnosis");

// A table; on a phone each row becomes a block, so the roles are named, which the style would else take away.
export function dataTable(caption, heads, rows) {
  const kind = (place) => (heads[place].number ? "number" : null);
  const head = ({ text }, place) => element("th", { class: kind(place), scope: "col", role: "columnheader" }, text);
  const cell = (value, place) => element("td", { class: kind(place), role: "cell", "data-head": heads[place].text }, value);
  return element("table", { role: "table" },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, heads.map(head))),
    element("tbody", { role: "rowgroup" }, rows.map((row) => element("tr", { role: "row" }, row.map(cell)))));
}
