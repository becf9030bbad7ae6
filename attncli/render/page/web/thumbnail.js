// @ts-check
// Small pictures of heads, painted straight from the stored numbers: a pixel has the largest number of its cells.

import { painted, hiddenColumns, openColumns } from "./heat.js";
import { columnUnits, remembered, rowUnits } from "./measure.js";
import { state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./data.js").Attention} Attention */
/** @typedef {import("./data.js").NdArray} NdArray */
/** @typedef {import("./kinds.js").Head} Head */
/** @typedef {{array: NdArray, pooled: number, hidden: boolean[], runs: (layer: number) => [number, number][]}} Source */

/** Makes thumbnails, each of them once for a document. */
export class Thumbnails {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
  }

  /** The measure of the thumbnails: thumbnails of long texts show weights, and rollout has no heads. */
  get measure() {
    const { page } = this;
    return page.attention.thumbnails ? "raw" : page.measure === "rollout" ? "norm" : page.measure;
  }

  /**
   * Returns the picture of a head, with at most `most` pixels along a side.
   * @param {Head} head
   * @param {number} most
   */
  of(head, most) {
    const source = this.source();
    const name = `thumbnail ${this.measure} ${state.idle} ${state.common} ${most} ${head.layer}.${head.head}`;
    return remembered(this.page.attention, name, () => paint(source, head, this.scale(source, head), most));
  }

  /** The stored numbers of the thumbnails, and which are hidden: a pixel of several tokens with any of them. @returns {Source} */
  source() {
    const { attention } = this.page;
    const columns = columnUnits(attention, false);
    const hidden = hiddenColumns(this.page, columns);
    if (attention.thumbnails) {
      const { pool, weights } = attention.thumbnails;
      const [, , height, width] = weights.shape;
      const last = (/** @type {number} */ row) => attention.reach[Math.min((row + 1) * pool, attention.reach.length) - 1];
      const runs = [...Array(height).keys()].map((row) => /** @type {[number, number]} */ ([0, Math.min(width, Math.ceil(last(row) / pool))]));
      return { array: weights, pooled: pool, hidden: [...Array(width).keys()].map((bin) => hidden.slice(bin * pool, (bin + 1) * pool).some(Boolean)), runs: () => runs };
    }
    const array = attention[/** @type {"raw" | "norm"} */ (this.measure)];
    return { array, pooled: 1, hidden: hidden.slice(0, array.shape[3]), runs: (layer) => this.runs(attention, layer) };
  }

  /**
   * Returns the columns of each row that are not masked in a layer. Layers with the same window share them.
   * @param {Attention} attention
   * @param {number} layer
   */
  runs(attention, layer) {
    return remembered(attention, `open ${attention.windows[layer]}`, () => {
      const columns = columnUnits(attention, false).slice(0, attention.raw.shape[3]);
      return rowUnits(attention, false).map((row) => openColumns(attention, layer, row, columns));
    });
  }

  /**
   * Returns the stored number that has the last color: the largest of the head, or of all heads.
   * @param {Source} source
   * @param {Head} head
   */
  scale(source, head) {
    if (!state.common) return largestOf(source, head);
    const { layers, heads } = this.page.attention;
    const every = () => [...Array(layers * heads).keys()].map((at) => largestOf(source, { layer: Math.floor(at / heads), head: at % heads }));
    return remembered(this.page.attention, `largest ${this.measure} ${state.idle}`, () => Math.max(...every()));
  }
}

/**
 * Returns the largest stored number of a head that is shown.
 * @param {Source} source
 * @param {Head} head
 */
function largestOf({ array, hidden, runs }, { layer, head }) {
  const width = array.shape[3];
  const { stored } = array;
  let most = 1;
  runs(layer).forEach(([start, stop], row) => {
    const at = array.offset([layer, head, row, 0]);
    for (let column = start; column < Math.min(stop, width); column++) if (!hidden[column] && stored[at + column] > most) most = stored[at + column];
  });
  return most;
}

/**
 * Paints a head: each pixel has the largest number of its cells.
 * @param {Source} source
 * @param {Head} head
 * @param {number} scale the stored number that has the last color
 * @param {number} most pixels along a side
 */
function paint({ array, hidden, runs }, { layer, head }, scale, most) {
  const [, , height, width] = array.shape;
  const [down, across] = [Math.min(height, most), Math.min(width, most)];
  const pixels = Uint16Array.from({ length: width }, (_, column) => Math.floor((column * across) / width));
  const levels = new Float32Array(down * across).fill(NaN);
  const { stored } = array;
  runs(layer).forEach(([start, stop], row) => {
    const at = array.offset([layer, head, row, 0]);
    const to = Math.floor((row * down) / height) * across;
    for (let column = start; column < Math.min(stop, width); column++) {
      if (hidden[column]) continue;
      const level = stored[at + column] / scale;
      const pixel = to + pixels[column];
      if (!(levels[pixel] >= level)) levels[pixel] = level;
    }
  });
  return painted(levels, across);
}
