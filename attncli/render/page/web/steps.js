// @ts-check
// The view of steps: the arithmetic of one pair in one head, unfolded from query and key to the output of the head.

import { element, fill, keepFocus, roving, svg } from "./dom.js";
import { fixed, number, percent, percentOf, text, unitName } from "./format.js";
import { headName } from "./lines.js";
import { isMasked, selectionName } from "./measure.js";
import { change, state } from "./state.js";
import { tableBehind } from "./table.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./data.js").Attention} Attention */
/** @typedef {import("./data.js").Steps} Steps */
/** @typedef {import("./measure.js").Unit} Unit */
/** @typedef {{element: HTMLElement, show: (index: number | null) => void}} Strip */
/**
 * @typedef {object} Arithmetic  the numbers of a row in a head; vectors have D numbers, the others S
 * @property {string} head
 * @property {Unit} row
 * @property {Unit} column
 * @property {Float64Array} query
 * @property {Float64Array} key
 * @property {Float64Array} value
 * @property {number} product  query · key; of a pair that is masked, from the rounded numbers
 * @property {number} rounded  the sum of the products of the rounded numbers
 * @property {number[]} scores  before the mask
 * @property {boolean[]} masked
 * @property {number[]} weights
 * @property {number} share  the share of information of the pair
 * @property {Float64Array} mixed  weights x values
 * @property {number} written  the length of what the head writes
 * @property {Steps} steps
 * @property {{query: number, key: number, value: number, scores: number}} error  the greatest rounding errors
 */

const NAMES = ["query", "key", "product", "scale", "mask", "softmax", "value", "mix", "output"];
const MOST_SOURCES = 24; // sources that are listed by name; of more, those with the largest weights
const NEAREST = 4; // heads that are offered instead of one that is not stored

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void}}
 */
export function createSteps(page) {
  const holder = element("div", { class: "steps" });
  const news = element("p", { class: "sr-only", role: "status" });
  const table = tableBehind(() => componentTable(page));
  const whole = element("div", {}, holder, news, table.element);
  holder.addEventListener("keydown", keys);
  const relevant = ["all", "row", "row2", "column", "column2", "heads", "part", "words", "step", "language"];
  const update = (/** @type {Set<string>} */ changed) => {
    if (!relevant.some((name) => changed.has(name))) return;
    const found = chosenArithmetic(page);
    table.element.hidden = "missing" in found;
    keepFocus(holder, () => fill(holder, ...("missing" in found ? found.missing : unfolded(page, found))));
    if (changed.has("step")) {
      const last = holder.querySelector(".step:last-child");
      last?.scrollIntoView({ block: "nearest" });
      news.textContent = last?.querySelector("h3")?.textContent ?? "";
    }
    table.update();
  };
  return { element: whole, update };
}

/** The number of steps that are unfolded. */
function shownSteps() {
  return Math.max(1, Math.min(NAMES.length, Math.round(state.step)));
}

/** @param {KeyboardEvent} event */
function keys(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLSelectElement) return;
  const to = { ArrowRight: shownSteps() + 1, ArrowLeft: shownSteps() - 1, Home: 1, End: NAMES.length }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  change({ step: Math.max(1, Math.min(NAMES.length, to)) });
}

/**
 * Returns the numbers of the chosen pair, or what is shown instead if the document does not have them.
 * @param {Page} page
 * @returns {Arithmetic | {missing: Node[]}}
 */
function chosenArithmetic(page) {
  const { attention, row } = page;
  const { steps } = attention;
  const note = (/** @type {string} */ key, /** @type {Record<string, string | number>} */ values = {}) => element("p", {}, text(key, values));
  if (!steps) return { missing: [note(page.live ? "cut.measuring" : "steps.none")] };
  const single = page.chosen.find(({ selection }) => selection.head !== null);
  const offer = (/** @type {[number, number][]} */ heads) =>
    element("p", { class: "offers" }, ...heads.map(([layer, head]) => element("button", { type: "button", onclick: () => change({ heads: [selectionName({ layer, head })] }) }, headName(selectionName({ layer, head })))));
  if (!single) return { missing: [note("steps.choose"), offer(strongestHeads(attention, row))] };
  const layer = /** @type {number} */ (single.selection.layer);
  const head = /** @type {number} */ (single.selection.head);
  const at = steps.heads.findIndex(([l, h]) => l === layer && h === head);
  if (at < 0) {
    const far = (/** @type {[number, number]} */ [l, h]) => Math.abs(l - layer) * attention.heads + Math.abs(h - head);
    const nearest = [...steps.heads].sort((one, other) => far(one) - far(other)).slice(0, NEAREST);
    return { missing: [note("steps.head", { head: single.name, stored: steps.heads.length }), offer(nearest)] };
  }
  const [first, count] = steps.rows;
  if (row < first || row >= first + count) {
    const nearest = row < first ? first : first + count - 1;
    const name = unitName({ label: attention.rows[nearest].label, index: nearest + attention.first });
    const button = element("button", { type: "button", onclick: () => page.lock(nearest) }, name);
    return { missing: [note("steps.row", { row: unitName({ label: attention.rows[row].label, index: row + attention.first }), first: String(first + attention.first), last: String(first + count - 1 + attention.first) }), element("p", { class: "offers" }, button)] };
  }
  return arithmetic(attention, at, row, columnOf(page, layer, head));
}

/**
 * Returns the chosen source, or the one from which the head brings most to the row.
 * @param {Page} page
 * @param {number} layer
 * @param {number} head
 */
function columnOf(page, layer, head) {
  const { attention, column } = page;
  if (column !== null && column < attention.raw.shape[3]) return column;
  return largest(attention.norm.slice(layer, head, page.row - attention.stored[0]));
}

/** @param {Float64Array} values */
function largest(values) {
  return values.reduce((most, value, at) => (value > values[most] ? at : most), 0);
}

/**
 * Returns the stored heads that write the longest vectors in a row.
 * @param {Attention} attention
 * @param {number} row
 * @returns {[number, number][]}
 */
function strongestHeads({ steps }, row) {
  if (!steps) return [];
  const at = Math.max(0, Math.min(steps.rows[1] - 1, row - steps.rows[0]));
  const order = steps.heads.map((_, index) => index).sort((one, other) => steps.written.at(other, at) - steps.written.at(one, at));
  return order.slice(0, NEAREST).map((index) => steps.heads[index]);
}

/**
 * Computes the numbers of a pair. The scores of sources that are masked are not stored; they follow from the vectors.
 * @param {Attention} attention
 * @param {number} at the position of the head among the stored heads
 * @param {number} row
 * @param {number} column
 * @returns {Arithmetic}
 */
function arithmetic(attention, at, row, column) {
  const steps = /** @type {Steps} */ (attention.steps);
  const { width } = steps;
  const [layer, head] = steps.heads[at];
  const root = steps.divided ? Math.sqrt(width) : 1;
  const offset = row - steps.rows[0];
  const unit = (/** @type {import("./data.js").Token[]} */ tokens, /** @type {number} */ token, /** @type {number} */ first) => ({ start: token, stop: token + 1, index: token + first, ...tokens[token] });
  const rowUnit = unit(attention.rows, row, attention.first);
  const query = steps.query.slice(at, offset);
  const keys = steps.key.slice(at);
  const values = steps.value.slice(at);
  const stored = steps.scores.slice(at, offset);
  const masked = [...stored].map((_, source) => isMasked(attention, layer, rowUnit, unit(attention.columns, source, 0)));
  const dot = (/** @type {number} */ source) => query.reduce((sum, each, component) => sum + each * keys[source * width + component], 0);
  const scores = [...stored].map((score, source) => (masked[source] ? dot(source) / root : score));
  const most = Math.max(...scores.filter((_, source) => !masked[source]));
  const exponentials = scores.map((score, source) => (masked[source] ? 0 : Math.exp(score - most)));
  const total = exponentials.reduce((sum, each) => sum + each, 0);
  const weights = exponentials.map((each) => each / total);
  const mixed = new Float64Array(width);
  for (let source = 0; source < weights.length; source++) for (let component = 0; component < width; component++) mixed[component] += weights[source] * values[source * width + component];
  const rounded = dot(column);
  return {
    head: selectionName({ layer, head }),
    row: rowUnit,
    column: unit(attention.columns, column, 0),
    query,
    key: keys.slice(column * width, (column + 1) * width),
    value: values.slice(column * width, (column + 1) * width),
    product: masked[column] || steps.biased ? rounded : scores[column] * root,
    rounded,
    scores,
    masked,
    weights,
    share: column < attention.norm.shape[3] ? attention.norm.at(layer, head, row - attention.stored[0], column) : 0,
    mixed,
    written: steps.written.at(at, offset),
    steps,
    error: { query: steps.query.errorAt(at, offset, 0), key: steps.key.errorAt(at, column, 0), value: steps.value.errorAt(at, column, 0), scores: steps.scores.errorAt(at, offset, 0) },
  };
}


/**
 * Names the row: a token, or for a row that predicts a token, "the row that predicts ␣Hund [2]".
 * @param {Page} page
 * @param {Arithmetic} found
 */
function rowName({ attention }, { row }) {
  const name = unitName(row);
  return attention.first ? text("steps.predicting", { token: name }) : name;
}

/**
 * Whether the attention has a mask: that of a decoder to its own text has one.
 * @param {Page} page
 */
function hasMask({ attention }) {
  return attention.part === "decoder";
}

/**
 * Returns the controls, the formula and the steps that are unfolded.
 * @param {Page} page
 * @param {Arithmetic} found
 * @returns {Node[]}
 */
function unfolded(page, found) {
  const count = shownSteps();
  /** @type {Strip[]} */
  const strips = [];
  const show = (/** @type {number | null} */ index) => strips.forEach((strip) => strip.show(index));
  const strip = (/** @type {string} */ name, /** @type {Float64Array} */ values, /** @type {(index: number) => string} */ describe, /** @type {{most?: number, idle?: string}} */ options = {}) => {
    const made = numberStrip(name, values, describe, show, options);
    strips.push(made);
    return made.element;
  };
  const list = element("ol", { class: "step-list" });
  for (const [at, name] of NAMES.slice(0, count).entries()) {
    const heading = element("h3", {}, `${at + 1}. ${text(`steps.${name}`)}`);
    list.append(element("li", { class: `step${at + 1 === count ? " newest" : ""}`, "data-step": name }, heading, element("p", {}, sentence(page, found, name)), ...contents(page, found, name, strip)));
  }
  const error = (/** @type {number} */ value) => number(value, 2);
  const rounding = element("p", { class: "note" }, text("steps.rounding", { query: error(found.error.query), key: error(found.error.key), value: error(found.error.value), scores: error(found.error.scores) }));
  return [controls(page, found, count), formula(page, found, count), list, rounding];
}

/**
 * Returns the pair, the choice of its source, and the buttons.
 * @param {Page} page
 * @param {Arithmetic} found
 * @param {number} count
 */
function controls(page, found, count) {
  const title = element("h2", {}, text("steps.title", { head: headName(found.head), row: rowName(page, found), column: unitName(found.column) }));
  const sources = page.attention.columns.slice(0, found.scores.length);
  const { words } = page;
  const choice = element(
    "select",
    { "data-key": "source", onchange: (/** @type {Event} */ event) => page.choose(Number(/** @type {HTMLSelectElement} */ (event.target).value)) },
    ...sources.map(({ label }, at) => element("option", { value: at, selected: at === found.column.start }, unitName({ label, index: at }))),
  );
  const button = (/** @type {string} */ key, /** @type {number} */ to, /** @type {boolean} */ disabled) => element("button", { type: "button", "data-key": key, disabled, onclick: () => change({ step: to }) }, text(`steps.${key}`));
  return element(
    "div",
    { class: "step-controls" },
    title,
    words && [words.row, words.column].some(({ start, stop }) => stop - start > 1) && element("p", { class: "note words-note" }, text("steps.words", { row: rowName(page, found), column: unitName(found.column) })),
    element("p", { class: "pair-shares" }, text("steps.both", { weight: percent(found.weights[found.column.start]), share: percent(found.share) })),
    element(
      "div",
      { class: "buttons" },
      button("back", count - 1, count === 1),
      button("next", count + 1, count === NAMES.length),
      button("everything", NAMES.length, count === NAMES.length),
      element("span", { class: "note" }, text("steps.count", { count, of: NAMES.length })),
      element("label", {}, element("span", { class: "control-name" }, text("steps.source")), choice),
    ),
    element("p", { class: "note" }, text("steps.keys")),
  );
}

/**
 * Returns the formula of the head. The part of the newest step stands out.
 * @param {Page} page
 * @param {Arithmetic} found
 * @param {number} count
 */
function formula(page, { steps }, count) {
  const parts = [["softmax", "softmax"], ["", "( "], ["query", "q"], ["product", " · "], ["key", "k"], ...(steps.divided ? [["scale", ` / √${steps.width}`]] : []), ...(hasMask(page) ? [["mask", ` + ${text("steps.mask.word")}`]] : []), ["", " )"], ["mix", " × "], ["value", "V"], ["", " "], ["output", "W_O"]];
  const newest = NAMES[count - 1];
  return element("p", { class: "formula" }, ...parts.map(([name, shown]) => element("span", { class: name === newest ? "newest" : name && NAMES.indexOf(name) >= count ? "ahead" : "" }, shown)));
}

/**
 * Returns the sentence that explains a step.
 * @param {Page} page
 * @param {Arithmetic} found
 * @param {string} name
 */
function sentence(page, found, name) {
  const { steps, column, weights } = found;
  const masked = found.masked[column.start];
  const values = {
    row: rowName(page, found),
    column: unitName(column),
    width: steps.width,
    root: fixed(Math.sqrt(steps.width), 2),
    weight: masked ? percentOf(0, 0) : percent(weights[column.start]),
    written: fixed(found.written, 3),
  };
  if (name === "scale") return [text(steps.divided ? "steps.scale.about" : "steps.scale.none", values), steps.biased ? text("steps.scale.biased") : ""].join(" ");
  if (name === "mask") {
    const { attention } = page;
    const later = column.start >= attention.reach[found.row.start];
    return text(masked ? (later ? "steps.mask.later" : "steps.mask.window") : hasMask(page) ? "steps.mask.about" : "steps.mask.none", values);
  }
  if (name === "value" && masked) return text("steps.value.masked", values);
  return text(`steps.${name}.about`, values);
}

/**
 * Returns the numbers of a step.
 * @param {Page} page
 * @param {Arithmetic} found
 * @param {string} name
 * @param {(name: string, values: Float64Array, describe: (index: number) => string, options?: {most?: number, idle?: string}) => Node} strip
 * @returns {Node[]}
 */
function contents(page, found, name, strip) {
  const { query, key, value, mixed, column, scores, weights, masked, steps } = found;
  const short = (/** @type {number} */ number) => signed(number, 2);
  const result = (/** @type {string} */ shown) => element("p", { class: "result" }, shown);
  const weight = weights[column.start];
  switch (name) {
    case "query":
      return [strip(text("steps.query"), query, (at) => short(query[at]))];
    case "key":
      return [strip(text("steps.key"), key, (at) => short(key[at]))];
    case "product": {
      const products = query.map((each, at) => each * key[at]);
      const line = strip(text("steps.product"), products, (at) => `${short(query[at])} × ${short(key[at])} = ${short(products[at])}`, { idle: "" });
      const sum = found.rounded !== found.product && element("p", { class: "note" }, text("steps.product.rounded", { rounded: signed(found.rounded, 2) }));
      return [line, ...(sum ? [sum] : []), result(`q · k = ${signed(found.product, 2)}`)];
    }
    case "scale": {
      const scaled = steps.divided ? `${signed(found.product, 2)} / ${fixed(Math.sqrt(steps.width), 2)}` : signed(found.product, 2);
      const bias = scores[column.start] - found.product / (steps.divided ? Math.sqrt(steps.width) : 1);
      const added = steps.biased && !masked[column.start] ? ` ${bias < 0 ? "−" : "+"} ${fixed(Math.abs(bias), 2)}` : "";
      return [result(`${scaled}${added} = ${signed(scores[column.start], 2)}`)];
    }
    case "mask":
      return [result(masked[column.start] ? `${signed(scores[column.start], 2)} → −∞` : signed(scores[column.start], 2))];
    case "softmax":
      return [sourceList(page, found)];
    case "value": {
      const weighted = value.map((each) => each * weight);
      return [strip(text("steps.value"), value, (at) => short(value[at])), strip(text("steps.weighted", { weight: masked[column.start] ? percentOf(0, 0) : percent(weight) }), weighted, (at) => `${percent(weight)} × ${short(value[at])} = ${signed(weighted[at], 3)}`, { most: greatest(value) })];
    }
    case "mix":
      return [strip(text("steps.mixed"), mixed, (at) => short(mixed[at]))];
    default:
      return [result(text("steps.written", { written: fixed(found.written, 3) }))];
  }
}

/** @param {Float64Array} values */
function greatest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
}

/**
 * Formats a number with a true minus sign.
 * @param {number} value
 * @param {number} digits
 */
function signed(value, digits) {
  return fixed(value, digits).replace("-", "−");
}

/**
 * Returns a vector as bars: up for positive numbers, down for negative ones. The pointer or the arrow keys show a number.
 * @param {string} name
 * @param {Float64Array} values
 * @param {(index: number) => string} describe
 * @param {(index: number | null) => void} show shows one number in all strips
 * @param {{most?: number, idle?: string}} options the number of the longest bar; what is read if no number is shown
 * @returns {Strip}
 */
function numberStrip(name, values, describe, show, { most = greatest(values), idle = text("steps.length", { length: fixed(Math.hypot(...values), 3) }) }) {
  const count = values.length;
  const mark = svg("rect", { class: "mark", width: 1, height: 40, visibility: "hidden" });
  const bars = [...values].map((value, at) => {
    const height = (19 * Math.abs(value)) / most;
    return svg("rect", { class: value < 0 ? "negative" : "positive", x: at + 0.08, y: value < 0 ? 20 : 20 - height, width: 0.84, height });
  });
  const picture = svg("svg", { viewBox: `0 0 ${count} 40`, preserveAspectRatio: "none", "aria-hidden": "true" }, mark, svg("line", { x1: 0, x2: count, y1: 20, y2: 20 }), ...bars);
  const readout = element("span", { class: "readout" });
  let current = 0;
  const track = element("div", { class: "numbers", tabindex: "0", role: "slider", "aria-label": name, "aria-valuemin": "1", "aria-valuemax": String(count) }, picture);
  const set = (/** @type {number | null} */ index) => {
    if (index !== null) current = index;
    readout.textContent = index === null ? idle : text("steps.number", { at: index + 1, value: describe(index) });
    mark.setAttribute("x", String(current));
    mark.setAttribute("visibility", index === null ? "hidden" : "visible");
    track.setAttribute("aria-valuenow", String(current + 1));
    track.setAttribute("aria-valuetext", text("steps.number", { at: current + 1, value: describe(current) }));
  };
  set(null);
  track.addEventListener("pointermove", (event) => {
    const box = track.getBoundingClientRect();
    show(Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - box.left) / box.width) * count))));
  });
  track.addEventListener("pointerleave", () => show(null));
  track.addEventListener("focus", () => show(current));
  track.addEventListener("blur", () => show(null));
  track.addEventListener("keydown", (event) => {
    const to = { ArrowRight: current + 1, ArrowUp: current + 1, ArrowLeft: current - 1, ArrowDown: current - 1, Home: 0, End: count - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(count - 1, to)));
  });
  return { element: element("div", { class: "vector" }, element("span", { class: "vector-name" }, name), track, readout), show: set };
}

/**
 * Returns the scores and weights of the sources. Of many sources, those with the largest weights, in the order of the text.
 * @param {Page} page
 * @param {Arithmetic} found
 */
function sourceList(page, { scores, weights, masked, column }) {
  const order = weights.map((_, at) => at).sort((one, other) => weights[other] - weights[one]);
  const listed = new Set(weights.length <= MOST_SOURCES ? order : [...order.slice(0, MOST_SOURCES - 1), column.start]);
  const shown = [...listed].sort((one, other) => one - other);
  const rest = weights.reduce((sum, weight, at) => (listed.has(at) ? sum : sum + weight), 0);
  const lines = shown.map((at) => {
    const bar = element("span", { class: "bar" });
    bar.style.width = `${(weights[at] * 100).toFixed(2)}%`;
    return element(
      "button",
      { type: "button", class: `source${masked[at] ? " masked" : ""}`, "data-key": `source${at}`, "aria-pressed": String(at === column.start), onclick: () => page.choose(at) },
      element("span", { class: "token-name" }, unitName({ label: page.attention.columns[at].label, index: at })),
      element("span", { class: "score" }, masked[at] ? "−∞" : signed(scores[at], 2)),
      element("span", { class: "track" }, bar),
      element("span", { class: "weight" }, masked[at] ? percentOf(0, 0) : percent(weights[at])),
    );
  });
  const list = element("div", { class: "sources", role: "group", "aria-label": text("steps.sources") }, ...lines);
  roving(list, "button");
  const head = element("div", { class: "source head", "aria-hidden": "true" }, ...["steps.source", "steps.score", "steps.weight"].map((key, at) => element("span", { class: ["token-name", "score", "weight"][at] }, text(key))));
  const more = weights.length > shown.length && element("p", { class: "note" }, text("steps.more", { count: weights.length - shown.length, share: percent(rest) }));
  return element("div", {}, head, list, more);
}

/** @param {Page} page */
function componentTable(page) {
  const found = chosenArithmetic(page);
  if ("missing" in found) return { caption: "", head: [], rows: [] };
  const { query, key, value, mixed, weights, column, scores } = found;
  const cell = (/** @type {number} */ number) => signed(number, 4);
  const head = ["#", ...["query", "key", "product", "value", "weighted", "mixed"].map((name) => text(`steps.${name}`, { weight: percentOf(weights[column.start], 3) }))];
  const rows = [...query].map((each, at) => [String(at + 1), cell(each), cell(key[at]), cell(each * key[at]), cell(value[at]), cell(weights[column.start] * value[at]), cell(mixed[at])]);
  return { caption: text("steps.table", { head: headName(found.head), row: rowName(page, found), column: unitName(column), score: signed(scores[column.start], 4), weight: percentOf(weights[column.start], 3) }), head, rows };
}
