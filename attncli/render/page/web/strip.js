// @ts-check
// The text as a row of tokens. A click locks a row; the tint shows the shares of the row, or how surprising a token was.

import { element, fill, fillByKey, rebuild, roving } from "./dom.js";
import { fixed, percent, text } from "./format.js";
import { columnUnits, keyOf, reachOf, rowUnits, unitOf } from "./measure.js";
import { state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./measure.js").Unit} Unit */

/** What the tint of a token says; a token gets it as a title when the pointer is on it. @type {WeakMap<Element, string>} */
const titles = new WeakMap();
const MOST_SURPRISE = 10; // nats: the strongest tint

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void}}
 */
export function createStrip(page) {
  const holder = element("div", { class: "strip" });
  holder.addEventListener("pointerover", ({ target }) => {
    const token = /** @type {HTMLElement} */ (target).closest(".token");
    if (token) /** @type {HTMLElement} */ (token).title = titles.get(token) ?? "";
  });
  let locked = -1;
  const update = (/** @type {Set<string>} */ changed) => {
    if (["all", "words", "part", "language"].some((name) => changed.has(name))) build(page, holder);
    tint(page, holder);
    if (locked !== page.row) queueMicrotask(() => reveal(holder));
    locked = page.row;
  };
  return { element: holder, update };
}

/**
 * @param {Page} page
 * @param {HTMLElement} holder
 */
function build(page, holder) {
  const { attention } = page;
  const names = attention.square ? ["strip.text"] : [attention.part === "cross" ? "strip.columns" : "strip.input", "strip.rows"];
  const letter = holder.closest(".two") ? ` ${"AB"[page.index]}` : "";
  rebuild(holder, [names, state.language], () => fill(holder, ...names.map((name) => group(text(name) + letter)), element("p", { class: "note" }, text("strip.hint"))));
  const lists = /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll(".tokens"));
  if (!attention.square) fillTokens(page, lists[0], columnUnits(attention, state.words), "column");
  fillTokens(page, lists[lists.length - 1], rowUnits(attention, state.words), "row");
}

/**
 * Scrolls to the locked token of a long text, if it is outside the visible part.
 * @param {HTMLElement} holder
 */
function reveal(holder) {
  const token = /** @type {HTMLElement | null} */ (holder.querySelector('[aria-pressed="true"]'));
  if (!token) return;
  const { offsetTop: top, offsetHeight: high } = token;
  if (top < holder.scrollTop || top + high > holder.scrollTop + holder.clientHeight) holder.scrollTop = top - holder.clientHeight / 2;
}

/**
 * Returns the place of the tokens of one text.
 * @param {string} name
 */
function group(name) {
  const list = element("div", { class: "tokens", role: "group", "aria-label": name });
  return element("div", { class: "strip-row" }, element("span", { class: "strip-name" }, name), list);
}

/**
 * Shows the tokens of one text as buttons.
 * @param {Page} page
 * @param {HTMLElement} list
 * @param {Unit[]} units
 * @param {"row" | "column"} kind
 */
function fillTokens(page, list, units, kind) {
  const token = (/** @type {Unit} */ unit) => {
    const shown = { class: `token${unit.special ? " special" : ""}`, "data-start": unit.start, "data-kind": kind };
    // The tint colors an element in the button: a browser computes the style of a button more slowly.
    const label = element("span", { class: "tint" }, unit.label);
    if (kind === "column") return element("span", shown, label);
    return element("button", { ...shown, ...page.listeners(unit.stop - 1), type: "button", "aria-pressed": "false" }, label);
  };
  fillByKey(list, units.map((unit) => `${kind} ${keyOf(unit)}`), (at) => token(units[at]));
  if (kind === "row") roving(list, "button");
}

/**
 * Colors the tokens, and marks the locked row.
 * @param {Page} page
 * @param {HTMLElement} holder
 */
function tint(page, holder) {
  const rows = rowUnits(page.attention, state.words);
  const shares = state.tint === "surprise" ? surprises(page, rows) : state.tint === "share" ? sharesOf(page) : null;
  const locked = rows[unitOf(rows, page.row)];
  const shown = rows[unitOf(rows, page.shown)];
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll(".token"))) {
    const start = Number(button.dataset.start);
    const isRow = button.dataset.kind === "row";
    const pressed = String(locked?.start === start);
    if (isRow && button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    button.classList.toggle("shown", isRow && shown?.start === start);
    const colored = page.attention.square || isRow === (state.tint === "surprise");
    const share = colored && shares ? shares.get(start) : undefined;
    const strength = share === undefined ? "0" : Math.min(1, share.strength).toFixed(2);
    const { style } = /** @type {HTMLElement} */ (button.firstChild);
    if (style.getPropertyValue("--share") !== strength) style.setProperty("--share", strength);
    titles.set(button, share?.title ?? "");
  }
}

/** @typedef {{strength: number, title: string}} Tint */

/**
 * Returns the tint of every source of the row that is shown, from the first selection.
 * @param {Page} page
 * @returns {Map<number, Tint>}
 */
function sharesOf(page) {
  const matrix = page.matrix(page.chosen[0].selection);
  const at = unitOf(matrix.rows, page.shown);
  const tints = new Map();
  if (at < 0) return tints;
  const reach = reachOf(page.attention, matrix.rows[at], matrix.columns);
  const row = matrix.values.subarray(at * matrix.columns.length, (at + 1) * matrix.columns.length);
  const most = Math.max(...row, 1e-9);
  matrix.columns.slice(0, reach).forEach((column, to) => tints.set(column.start, { strength: row[to] / most, title: percent(row[to]) }));
  return tints;
}

/**
 * Returns the tint of every row by its surprise: minus the logarithm of the probability that its tokens had. The encoder
 * of a model that translates has no predictions of its text.
 * @param {Page} page
 * @param {Unit[]} units
 * @returns {Map<number, Tint>}
 */
function surprises(page, units) {
  const { predictions } = page.doc;
  const tints = new Map();
  if (!predictions || (page.attention.part === "encoder" && page.doc.attentions.length > 1)) return tints;
  const [first, count] = predictions.rows;
  const shift = predictions.what === "next" ? 1 : 0;
  for (const unit of units) {
    let sum = 0;
    let known = false;
    for (let token = unit.start; token < unit.stop; token++) {
      const row = token - shift - first;
      const log = row >= 0 && row < count ? predictions.actual.at(row) : NaN;
      if (Number.isFinite(log)) {
        sum -= log;
        known = true;
      }
    }
    if (known) tints.set(unit.start, { strength: sum / MOST_SURPRISE, title: text("strip.surprise", { probability: percent(Math.exp(-sum)), nats: fixed(sum, 2) }) });
  }
  return tints;
}
