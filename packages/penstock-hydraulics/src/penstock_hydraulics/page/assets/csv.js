// A cycle as CSV: a line with the names of the sensors, then one line for each sample. What is wrong is named by its
// column and line. A column that is sampled less often than others leaves its other cells empty.

export class CsvError extends Error {}

const TIME = /^(time|timestamp|date|datetime|zeit|zeitstempel|t|s|seconds?|ms)$/i;
const CYCLE_S = 60;
const RATES = [0.1, 1000];

export function readCycle(text, seconds = null) {
  const rows = table(text);
  if (!rows.length) throw new CsvError("The text is empty; paste a line with the names of the sensors and the samples below it.");
  const [header, ...lines] = rows;
  const columns = header.cells.map((cell, place) => column(cell.text, place));
  checkHeader(columns, header.line);
  if (!lines.length) throw new CsvError(`There is no sample below the names in line ${header.line}.`);
  for (const { cells, line } of lines) {
    if (cells.length !== columns.length)
      throw new CsvError(`Line ${line} has ${count(cells.length, "cell")}, and the names in line ${header.line} are ${columns.length}.`);
  }
  const comma = decimalComma(rows.separator, lines, columns);
  const times = readTimes(columns, lines, comma);
  const sensors = columns.filter((one) => !one.time);
  if (!sensors.length) throw new CsvError(`Line ${header.line} names no sensor besides the time.`);
  const series = sensors.map((one) => ({ ...one, ...samples(one, lines, comma) }));
  const length = times?.seconds ?? seconds ?? defaultSeconds(series);
  return {
    sensor_data: Object.fromEntries(series.map((one) => [one.name, one.values])),
    sampling_rate_hz: Object.fromEntries(series.map((one) => [one.name, rate(one, times, length, lines.length)])),
    ...(times?.end ? { timestamp: times.end } : {}),
    seconds: length,
    rows: lines.length,
  };
}

// Lines and cells

function table(text) {
  const body = text.replace(/^\uFEFF/, "");
  const first = body.split(/\r\n|\n|\r/).find((line) => line.trim() && !line.startsWith("#")) ?? "";
  const plain = first.replace(/"[^"]*"/g, "");
  const separator = ["\t", ";", ","].find((one) => plain.includes(one)) ?? ";"; // one column has none, and may hold decimal commas
  const rows = cellsOf(body, separator).filter(
    ({ cells }) => cells.some((cell) => cell.text) && !cells[0].text.startsWith("#"),
  );
  rows.separator = separator;
  return rows;
}

function cellsOf(text, separator) {
  const rows = [];
  let row = { cells: [], line: 1 }, cell = "", quoted = false, wasQuoted = false, line = 1, opened = 1;
  const endCell = () => {
    row.cells.push({ text: cell.trim(), quoted: wasQuoted });
    [cell, wasQuoted] = ["", false];
  };
  for (let at = 0; at < text.length; at++) {
    const sign = text[at];
    if (sign === "\n" || (sign === "\r" && text[at + 1] !== "\n")) line++;
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[at + 1] === '"') (cell += '"'), at++;
      else quoted = false;
    } else if (sign === '"' && !cell.trim()) [cell, quoted, wasQuoted, opened] = ["", true, true, line];
    else if (sign === separator) endCell();
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[at + 1] === "\n") continue;
      endCell();
      rows.push(row);
      row = { cells: [], line };
    } else cell += sign;
  }
  if (quoted) throw new CsvError(`The quotation mark in line ${opened} is not closed.`);
  endCell();
  rows.push(row);
  return rows;
}

function column(text, place) {
  const [, name, unit] = /^(.*?)\s*(?:[[(]\s*(.*?)\s*[\])])?$/s.exec(text);
  return { name, unit: unit ?? "", place, time: TIME.test(name), shown: name || `number ${place + 1}` };
}

function checkHeader(columns, line) {
  if (columns.every(({ name }) => number(name, true) !== null))
    throw new CsvError(`Line ${line} holds numbers; the first line must hold the names of the sensors.`);
  const seen = new Set();
  for (const one of columns) {
    if (!one.name) throw new CsvError(`Column ${one.place + 1} has no name in line ${line}.`);
    if (seen.has(one.name)) throw new CsvError(`Column ${one.name}: line ${line} names it twice.`);
    seen.add(one.name);
  }
  const times = columns.filter((one) => one.time);
  if (times.length > 1) throw new CsvError(`Columns ${times[0].name} and ${times[1].name}: line ${line} names two columns of times.`);
}

// Numbers

function decimalComma(separator, lines, columns) {
  const sensors = columns.filter((one) => !one.time);
  return lines.some(({ cells }) =>
    sensors.some(({ place }) => (separator !== "," || cells[place].quoted) && /^[+-]?[\d.]*,\d*$/.test(cells[place].text)),
  );
}

function number(text, comma) {
  const plain = comma && text.includes(",") ? text.replace(/\.(?=\d{3})/g, "").replace(",", ".") : text;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain) ? Number(plain) : null;
}

function samples(one, lines, comma) {
  const values = [], at = [];
  lines.forEach(({ cells, line }, row) => {
    const { text } = cells[one.place];
    if (!text) return;
    const value = number(text, comma);
    if (value === null || !Number.isFinite(value))
      throw new CsvError(`Column ${one.shown}, line ${line}: ${JSON.stringify(text.slice(0, 40))} is not a number.`);
    values.push(value);
    at.push(row);
  });
  if (!values.length) throw new CsvError(`Column ${one.shown} holds no sample.`);
  return { values, step: spacing(one, at, lines) };
}

// How many lines apart the samples of a column are. Cells are left out regularly, or not at all.
function spacing(one, at, lines) {
  const step = at.length > 1 ? at[1] - at[0] : Math.max(lines.length - at[0], 1);
  for (let place = 0; place < at.length; place++) {
    if (at[place] === at[0] + place * step && at[0] < step) continue;
    const missing = at[0] >= step ? 0 : Math.min(at[place], at[0] + place * step);
    throw new CsvError(`Column ${one.shown}, line ${lines[missing].line}: the samples are not evenly spaced; leave cells empty only in a column that is sampled less often than others, always the same number of lines apart.`);
  }
  if (lines.length - at.at(-1) > step) {
    const share = lines.length / at.length; // a column may also hold all its samples at the top
    if (step === 1 && at[0] === 0 && Math.abs(Math.round(share) / share - 1) < 0.02) return Math.round(share);
    const { line } = lines[at.at(-1) + step];
    throw new CsvError(`Column ${one.shown}, line ${line}: the samples end here, before those of other columns.`);
  }
  return step;
}

// Times and rates

function readTimes(columns, lines, comma) {
  const one = columns.find((each) => each.time);
  if (!one || lines.length < 2) return null;
  const factor = /^(ms|milliseconds?)$/i.test(one.unit || one.name) ? 0.001 : 1;
  const times = lines.map(({ cells, line }) => {
    const time = moment(cells[one.place].text, comma, factor);
    if (time === null) throw new CsvError(`Column ${one.shown}, line ${line}: ${JSON.stringify(cells[one.place].text.slice(0, 40))} is no time.`);
    return time;
  });
  const steps = times.slice(1).map((time, row) => time.s - times[row].s);
  const back = steps.findIndex((step) => step <= 0);
  if (back >= 0) throw new CsvError(`Column ${one.shown}, line ${lines[back + 1].line}: the time does not rise.`);
  const usual = [...steps].sort((a, b) => a - b)[steps.length >> 1];
  const gap = steps.findIndex((step) => step > 1.6 * usual || step < 0.4 * usual);
  if (gap >= 0) throw new CsvError(`Column ${one.shown}, line ${lines[gap + 1].line}: ${steps[gap].toPrecision(3)} s after the line before, usually ${usual.toPrecision(3)} s; send one cycle with evenly spaced samples.`);
  const step = (times.at(-1).s - times[0].s) / steps.length;
  return { step, seconds: step * lines.length, end: times.at(-1).iso };
}

function moment(text, comma, factor) {
  const plain = number(text, comma || text.includes(","));
  if (plain !== null) {
    const s = plain * (plain > 1e12 ? 0.001 : factor);
    return { s, iso: s > 1e9 ? iso(s * 1000) : null };
  }
  const clock = /^(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)$/.exec(text);
  if (clock) return { s: Number(clock[1] ?? 0) * 3600 + Number(clock[2]) * 60 + Number(clock[3].replace(",", ".")), iso: null };
  const german = /^(\d{1,2})\.(\d{1,2})\.(\d{4})[ T]+(\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)$/.exec(text);
  const written = german ? `${german[3]}-${german[2].padStart(2, "0")}-${german[1].padStart(2, "0")}T${german[4].padStart(5, "0").replace(",", ".")}` : text.replace(",", ".");
  const ms = /^\d{4}-\d{2}-\d{2}[T ]/.test(written) ? Date.parse(written.replace(" ", "T")) : NaN;
  return Number.isNaN(ms) ? null : { s: ms / 1000, iso: iso(ms) };
}

const iso = (ms) => (Math.abs(ms) < 8e15 ? new Date(ms).toISOString() : null);

// Without times, a cycle is 60 s long; at most 60 samples are taken one a second.
function defaultSeconds(series) {
  const most = Math.max(...series.map((one) => one.values.length));
  return most > CYCLE_S ? CYCLE_S : most;
}

function rate(one, times, length, rows) {
  const exact = times ? 1 / (times.step * one.step) : rows / one.step / length;
  const whole = exact >= 1 ? Math.round(exact) : 1 / Math.round(1 / exact);
  const hz = Math.abs(whole / exact - 1) < 0.02 ? whole : exact;
  if (hz < RATES[0] || hz > RATES[1])
    throw new CsvError(`Column ${one.shown}: ${count(one.values.length, "sample")} in ${Number(length.toPrecision(3))} s are ${Number(hz.toPrecision(3))} Hz; a rate must lie between ${RATES[0]} and ${RATES[1]} Hz.`);
  return hz;
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
