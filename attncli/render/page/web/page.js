// @ts-check
// One text on the page: its document, the attention that is shown, the row in focus, the selected heads.

import { columnUnits, matrixOf, parseSelection, rowUnits, selectionName, unitOf } from "./measure.js";
import { change, state } from "./state.js";

/** @typedef {import("./data.js").Doc} Doc */
/** @typedef {import("./data.js").Attention} Attention */
/** @typedef {import("./measure.js").Selection} Selection */
/** @typedef {import("./measure.js").Unit} Unit */
/** @typedef {{name: string, selection: Selection, color: string}} Chosen */

export const MOST_CHOSEN = 8;
/** @type {Selection} */
const ALL = { layer: null, head: null };

/** A document with the part of the state that belongs to it. The second of two texts has a row and a source of its own. */
export class Page {
  /**
   * @param {Doc} doc
   * @param {number} index 0, or 1 for the second text of a comparison
   * @param {import("./live.js").Server | null} [live] the server of the live page
   */
  constructor(doc, index, live = null) {
    this.doc = doc;
    this.index = index;
    this.live = live;
  }

  /** The attention that is shown. */
  get attention() {
    return this.doc.attentions.find(({ part }) => part === state.part) ?? this.doc.attentions[this.doc.attentions.length - 1];
  }

  /**
   * The locked row, as a token: of a word, the last token. A row that the document does not have is replaced by the
   * nearest one that it has.
   */
  get row() {
    const asked = this.index === 0 ? state.row : state.row2;
    const [first, count] = this.attention.stored;
    const row = Math.max(first, Math.min(first + count - 1, Math.round(asked)));
    const word = state.words && this.rows[unitOf(this.rows, row)];
    return word ? word.stop - 1 : row;
  }

  /** The words of the locked row and of the source; null if tokens are shown, or if one of the two has no word. */
  get words() {
    const columns = columnUnits(this.attention, true);
    const [row, column] = [this.rows[unitOf(this.rows, this.row)], columns[unitOf(columns, this.source)]];
    return state.words && row && column ? { row, column } : null;
  }

  /** The row that pictures show: the one under the pointer, otherwise the locked row. */
  get shown() {
    return state.hover && state.hover[0] === this.index ? state.hover[1] : this.row;
  }

  /** The chosen source as a token, or null. */
  get column() {
    const column = this.index === 0 ? state.column : state.column2;
    return column !== null && Number.isInteger(column) && column >= 0 && column < this.attention.columns.length ? column : null;
  }

  /** The chosen source as a token; otherwise the one with the largest share in the locked row, of the first selection. */
  get source() {
    if (this.column !== null) return this.column;
    const { values, columns } = matrixOf(this.attention, this.chosen[0].selection, "norm", false);
    const start = (this.row - this.attention.stored[0]) * columns.length;
    const shares = values.subarray(start, start + columns.length);
    return shares.reduce((most, share, at) => (share > shares[most] ? at : most), 0);
  }

  /** The measure of a single head: the chosen one, and the share of information instead of rollout. */
  get headMeasure() {
    return this.measure === "rollout" ? "norm" : this.measure;
  }

  /**
   * Returns how much a head brings from a source to the locked row, in the measure of a single head.
   * @param {{layer: number, head: number}} head
   * @param {number} source a token
   */
  shareIn({ layer, head }, source) {
    const values = this.attention[this.headMeasure];
    return source < values.shape[3] ? values.at(layer, head, this.row - this.attention.stored[0], source) : 0;
  }

  /**
   * Locks a row.
   * @param {number} row a token
   */
  lock(row) {
    change(this.index === 0 ? { row } : { row2: row });
  }

  /**
   * Chooses the source of an edge.
   * @param {number} column a token
   * @param {Partial<import("./state.js").State>} [more] what changes with it
   */
  choose(column, more = {}) {
    change({ ...(this.index === 0 ? { column } : { column2: column }), ...more });
  }

  /**
   * Shows a row while the pointer or the keyboard focus is on it; null ends this.
   * @param {number | null} row a token
   */
  preview(row) {
    change({ hover: row === null ? null : [this.index, row] });
  }

  /**
   * Returns the listeners of an element that stands for a row: a click locks it, the pointer and the focus preview it.
   * @param {number} row a token
   */
  listeners(row) {
    const end = () => this.preview(null);
    const focus = (/** @type {FocusEvent} */ { target }) => /** @type {Element} */ (target).matches(":focus-visible") && this.preview(row);
    return { onclick: () => this.lock(row), onpointerenter: () => this.preview(row), onpointerleave: end, onfocus: focus, onblur: end };
  }

  /** The selected heads, layers or all heads, each with its color. @returns {Chosen[]} */
  get chosen() {
    const parsed = state.heads.flatMap((name) => parseSelection(name, this.attention) ?? []);
    const selections = new Map((parsed.length ? parsed : [ALL]).map((selection) => [selectionName(selection), selection]));
    return [...selections].slice(0, MOST_CHOSEN).map(([name, selection], at) => ({ name, selection, color: `var(--head-${at})` }));
  }

  /** What pictures show: the selected heads, or rollout, which multiplies all layers. @returns {Chosen[]} */
  get pictured() {
    return this.measure === "rollout" ? [{ name: "rollout", selection: ALL, color: "var(--accent)" }] : this.chosen;
  }

  /**
   * The matrix of a selection, in the chosen measure and units.
   * @param {Selection} selection
   */
  matrix(selection) {
    return matrixOf(this.attention, selection, this.measure, state.words);
  }

  /** The chosen measure; a document without rollout has the shares instead. */
  get measure() {
    return state.measure === "rollout" && !this.attention.rollout ? "norm" : state.measure;
  }

  /** The stored rows, as tokens or words. */
  get rows() {
    return rowUnits(this.attention, state.words);
  }

  /** The position among `rows` of the row that pictures show. */
  get shownUnit() {
    return Math.max(0, unitOf(this.rows, this.shown));
  }

  /** Whether a row predicts the token after it, as in a decoder alone. */
  get causalAlone() {
    return this.doc.kind === "decoder";
  }
}
