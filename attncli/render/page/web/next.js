// @ts-check
// The panel "What comes next": the distribution of the locked row at a temperature, and what the filters remove of it.

import { distributionOf, predictedRow, settings } from "./distribution.js";
import { element, fill, write } from "./dom.js";
import { fixed, number, percent, percentOf, text, unitName } from "./format.js";
import { change, startValues, state } from "./state.js";
import { tableBehind } from "./table.js";
import { explanation } from "./toolbar.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./distribution.js").Distribution} Distribution */
/** @typedef {{name: "temperature" | "top_k" | "top_p" | "min_p", least: number, most: number, step: number}} Setting */

/** @type {Setting[]} */
const SETTINGS = [
  { name: "temperature", least: 0, most: 2, step: 0.05 },
  { name: "top_k", least: 0, most: 100, step: 1 },
  { name: "top_p", least: 0.01, most: 1, step: 0.01 },
  { name: "min_p", least: 0, most: 1, step: 0.01 },
];
const SHOWN = 12; // tokens with a bar
const SHORTEST = 0.3; // the least probability for which a bar has the full length

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void}}
 */
export function createNext(page) {
  const title = element("h2");
  const controls = element("div", { class: "next-controls" });
  const bars = element("div", { class: "chances", role: "list" });
  const facts = element("div", { class: "facts" });
  const table = tableBehind(() => tableOf(page));
  const whole = element("section", { class: "panel next" }, title, bars, controls, facts, table.element);
  const update = (/** @type {Set<string>} */ changed) => {
    const relevant = ["all", "row", "row2", "part", "words", "language", ...SETTINGS.map(({ name }) => name)];
    if (!relevant.some((name) => changed.has(name))) return;
    whole.hidden = !page.doc.predictions;
    if (whole.hidden) return;
    if (!controls.firstChild || changed.has("language")) build(controls); // a slider that is dragged stays
    show(controls);
    write(title, titleOf(page));
    const found = chosenDistribution(page);
    bars.setAttribute("aria-label", title.textContent ?? "");
    fill(bars, ...(found ? barsOf(page, found) : []));
    fill(facts, ...(found ? factsOf(page, found) : [element("p", {}, text("next.missing"))]));
    controls.hidden = table.element.hidden = !found;
    table.update();
  };
  return { element: whole, update };
}

/**
 * Returns the distribution of the row that is shown; null if it is not stored.
 * @param {Page} page
 */
function chosenDistribution(page) {
  const row = predictedRow(page);
  const { predictions } = page.doc;
  return row === null || !predictions ? null : distributionOf(predictions, row, settings());
}

/**
 * Returns the question that the distribution answers: "What follows ␣little [10]?"
 * @param {Page} page
 */
export function titleOf(page) {
  const row = predictedRow(page);
  const { predictions } = page.doc;
  if (!predictions || row === null) return text("next.title");
  const attention = page.doc.attentions[page.doc.attentions.length - 1];
  const token = unitName({ label: attention.rows[row].label, index: row + attention.first });
  return text(predictions.what === "next" ? "next.follows" : "next.candidates", { token });
}

/** Says that the probabilities of a panel do not follow the slider of the temperature; null if it is at 1. */
export function temperatureNote() {
  const { temperature } = settings();
  return temperature === 1 ? null : element("p", { class: "note", "data-note": "temperature" }, text("temperature.one", { temperature: number(temperature) }));
}

/**
 * Builds the controls of the temperature and the filters: a slider and a number for each.
 * @param {HTMLElement} controls
 */
function build(controls) {
  fill(
    controls,
    ...SETTINGS.map((setting) => control(setting)),
    element("button", { type: "button", class: "reset", onclick: () => change(Object.fromEntries(SETTINGS.map(({ name }) => [name, startValues()[name]]))) }, text("next.reset")),
  );
}

/** @param {Setting} setting */
function control({ name, least, most, step }) {
  const set = (/** @type {string} */ value) => value !== "" && change({ [name]: Math.max(least, Number(value)) });
  const changed = (/** @type {Event} */ event) => set(/** @type {HTMLInputElement} */ (event.target).value);
  const label = text(`next.${name}`);
  const slider = element("input", { type: "range", min: least, max: most, step, "data-setting": name, "aria-label": label, oninput: changed });
  const typed = element("input", { type: "number", min: least, max: name === "top_k" ? null : name === "temperature" ? null : most, step: name === "top_k" ? 1 : "any", "data-setting": name, "aria-label": text("next.typed", { name: label }), onchange: changed });
  return element("div", { class: "setting" }, element("span", { class: "control-name" }, label), slider, typed, ...explanation(`next.${name}`, `help.${name}`));
}

/**
 * Shows the values of the state in the controls.
 * @param {HTMLElement} controls
 */
function show(controls) {
  for (const input of /** @type {NodeListOf<HTMLInputElement>} */ (controls.querySelectorAll("input"))) {
    const value = settings()[/** @type {Setting["name"]} */ (input.dataset.setting)];
    if (Number(input.value) !== value || input.value === "") input.value = String(value);
  }
  const reset = /** @type {HTMLButtonElement} */ (controls.querySelector(".reset"));
  reset.disabled = SETTINGS.every(({ name }) => settings()[name] === startValues()[name]);
}

/** Whether a filter is on; at temperature 0, a single token is left. */
function filters() {
  const { temperature, top_k, top_p, min_p } = settings();
  return temperature === 0 || top_k > 0 || top_p < 1 || min_p > 0;
}

/**
 * Returns a bar for each of the most probable tokens, and one for all others.
 * @param {Page} page
 * @param {Distribution} found
 */
function barsOf(page, found) {
  const { predictions, vocabulary } = page.doc;
  const row = /** @type {number} */ (predictedRow(page));
  const shown = found.ids.slice(0, SHOWN);
  const rest = found.probabilities.slice(SHOWN).reduce((sum, each) => sum + each, found.others);
  const most = Math.max(found.probabilities[0], rest, SHORTEST);
  const lines = shown.map((id, at) => chance(vocabulary[id] ?? `#${id}`, found.probabilities[at], most, !found.kept[at], filters() ? found.drawn[at] : null, id === actualId(page, row)));
  const drawn = found.drawn.slice(SHOWN).reduce((sum, each) => sum + each, found.others_drawn);
  const count = found.ids.length - shown.length + found.others_count;
  if (count && predictions) lines.push(chance(text("next.others", { count }), rest, most, drawn === 0, filters() ? drawn : null, false, true));
  return lines;
}

/**
 * Returns a line with a token, its probability as a bar and as a number.
 * @param {string} label
 * @param {number} probability
 * @param {number} most the probability of the longest bar
 * @param {boolean} removed whether the filters remove the token
 * @param {number | null} drawn the probability that is left after the filters; null without filters
 * @param {boolean} actual whether it stands in the text
 * @param {boolean} [rest] whether the line stands for all other tokens
 */
function chance(label, probability, most, removed, drawn, actual, rest = false) {
  const bar = element("span", { class: "bar" });
  bar.style.width = `${Math.min(100, (100 * probability) / most).toFixed(2)}%`;
  return element(
    "div",
    { class: `chance${removed ? " removed" : ""}${rest ? " rest" : ""}`, role: "listitem" },
    element("span", { class: "token-name" }, element("bdi", {}, label), actual && element("span", { class: "own", title: text("next.own") }, " ◂", element("span", { class: "sr-only" }, text("next.own")))),
    element("span", { class: "track" }, bar),
    element("span", { class: "share" }, percent(probability)),
    drawn !== null && element("span", { class: "drawn-share" }, removed ? text("next.removed") : percent(drawn)),
  );
}

/**
 * Returns the id of the token in the text that a row predicts; null if there is none.
 * @param {Page} page
 * @param {number} row
 */
function actualId(page, row) {
  const { predictions, attentions } = page.doc;
  if (!predictions || Number.isNaN(predictions.actual.at(row - predictions.rows[0]))) return null;
  const { rows } = attentions[attentions.length - 1];
  return rows[row + (predictions.what === "next" ? 1 : 0)].id;
}

/**
 * Returns the sentences under the bars: the token in the text, the entropy, what is removed, the error.
 * @param {Page} page
 * @param {Distribution} found
 */
function factsOf(page, found) {
  const { predictions, attentions } = page.doc;
  const row = /** @type {number} */ (predictedRow(page));
  const { rows } = attentions[attentions.length - 1];
  const own = actualId(page, row) === null ? null : rows[row + (predictions?.what === "next" ? 1 : 0)].label;
  const greedy = settings().temperature === 0;
  const said = (/** @type {string} */ name, /** @type {Record<string, string | number>} */ values) => element("p", { "data-fact": name }, text(`next.${name}`, values));
  return [
    own !== null && said("actual", { token: own, probability: percent(found.actual) }),
    said("entropy", { entropy: fixed(found.entropy, 2), tokens: fixed(Math.exp(found.entropy), 1) }),
    filters() && !greedy && found.removed > 0 && said("mass", { removed: percent(found.removed), left: found.kept.filter(Boolean).length + found.others_kept }),
    greedy && said("greedy", {}),
    found.error > 0 && said("error", { error: number(Math.ceil(found.error * 1e5) / 1e3, 3), kept: found.ids.length }),
  ];
}

/** @param {Page} page */
function tableOf(page) {
  const found = chosenDistribution(page);
  if (!found) return { caption: "", head: [], rows: [] };
  return {
    caption: text("next.table", { title: titleOf(page), temperature: number(settings().temperature || 1) }),
    head: [text("next.token"), text("next.probability"), text("next.drawn")],
    rows: [
      ...found.ids.map((id, at) => [page.doc.vocabulary[id] ?? `#${id}`, percentOf(found.probabilities[at], 3), percentOf(found.drawn[at], 3)]),
      [text("next.others", { count: found.others_count }), percentOf(found.others, 3), percentOf(found.others_drawn, 3)],
    ],
  };
}
