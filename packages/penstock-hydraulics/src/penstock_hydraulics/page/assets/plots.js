// Plots as SVG, each with a sentence for those who do not see it.

import { element, shape, shown } from "./elements.js";

const NARROW = matchMedia("(max-width: 800px)");
const LEFT = 44;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

// A curve of [x, y]; y null is a gap. `trend` is {from, to, low, high}: pairs of points of a line and its interval.
export function plot({ title, label, points, height = 220, width = NARROW.matches ? 340 : 860, low, high, x, limit, trend, dots = false }) {
  const known = points.filter(([, y]) => y !== null);
  const figure = element("figure", {}, element("figcaption", {}, title));
  if (!known.length) {
    figure.append(element("p", { class: "quiet" }, "Nothing to show yet."));
    return figure;
  }
  const frame = frameOf(known, { height, width, low, high, until: trend?.to[0] });
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label ?? summary(title, known) });
  drawing.append(...axes(frame, x));
  if (trend) drawing.append(...trendOf(trend, frame));
  if (limit !== undefined) drawing.append(line([[frame.x0, limit], [frame.x1, limit]], frame, "limit"));
  for (const part of parts(points)) drawing.append(line(part, frame, "curve"));
  if (dots || known.length < 3)
    drawing.append(...known.map(([at, y]) => shape("circle", { class: "dots", cx: frame.px(at), cy: frame.py(y), r: 2.6 })));
  figure.append(drawing);
  return figure;
}

function summary(title, known) {
  const values = known.map(([, y]) => y);
  return `${title}: ${known.length} values from ${shown(Math.min(...values))} to ${shown(Math.max(...values))}, the last ${shown(values.at(-1))}`;
}

function frameOf(known, { height, width, low, high, until }) {
  const values = known.map(([, y]) => y);
  let [bottom, top] = [low ?? Math.min(...values), high ?? Math.max(...values)];
  if (low === undefined && top - bottom < 1e-9) [bottom, top] = [bottom - 1, top + 1];
  const x0 = known[0][0];
  const x1 = Math.max(known.at(-1)[0], until ?? -Infinity, x0 + 1); // a single value has no span
  return {
    x0, x1, bottom, top, width, height,
    px: (at) => LEFT + ((at - x0) / (x1 - x0)) * (width - LEFT - RIGHT),
    py: (y) => TOP + (1 - (Math.min(Math.max(y, bottom), top) - bottom) / (top - bottom)) * (height - TOP - BOTTOM),
  };
}

function axes(frame, x = (at) => String(Math.round(at))) {
  const { width, height, bottom, top } = frame;
  const digits = top - bottom >= 20 ? 0 : top - bottom >= 2 ? 1 : 2;
  const marks = [bottom, (bottom + top) / 2, top].flatMap((y) => [
    shape("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: frame.py(y), y2: frame.py(y) }),
    shape("text", { x: LEFT - 6, y: frame.py(y) + 4, "text-anchor": "end" }, shown(y, digits)),
  ]);
  return [
    ...marks,
    shape("text", { x: LEFT, y: height - 6 }, x(frame.x0)),
    shape("text", { x: width - RIGHT, y: height - 6, "text-anchor": "end" }, x(frame.x1)),
  ];
}

function trendOf({ from, to, low, high }, frame) {
  const corners = [from, [to[0], high], [to[0], low]].map(([at, y]) => `${frame.px(at)},${frame.py(y)}`).join(" ");
  return [shape("polygon", { class: "band", points: corners }), line([from, to], frame, "trend")];
}

const line = (points, frame, name) =>
  shape("polyline", { class: name, points: points.map(([at, y]) => `${frame.px(at).toFixed(1)},${frame.py(y).toFixed(1)}`).join(" ") });

function parts(points) {
  const found = [[]];
  for (const point of points) {
    if (point[1] === null) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((part) => part.length > 1);
}
