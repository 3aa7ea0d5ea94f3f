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
export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);
export const words = (name) => name.replaceAll("_", " ");

export const badge = (status) => element("span", { class: `status ${status ?? "unknown"}` }, status ?? "no diagnosis");

export function dataTable(caption, heads, rows) {
  const cell = (name, value, place) =>
    element(name, { class: heads[place].number ? "number" : null, scope: name === "th" ? "col" : null }, value);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, heads.map((head, place) => cell("th", head.text, place)))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map((value, place) => cell("td", value, place)))))));
}
