// @ts-check
// Colors of weights: the palette viridis, the scale of each selected head, and which cells are masked or hidden.

import { idleColumns, isMasked, reachOf } from "./measure.js";
import { state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./measure.js").Matrix} Matrix */
/** @typedef {import("./measure.js").Unit} Unit */
/** @typedef {import("./data.js").Attention} Attention */
/**
 * The colors of one matrix. A level from 0 to 1 is a position in the palette; NaN stands for a cell without a color.
 * @typedef {object} Heat
 * @property {string} name the selection
 * @property {string} color of the selection
 * @property {Matrix} matrix
 * @property {Float32Array} levels rows x columns
 * @property {number} most the number of the last color: a share, or a ratio of the rollout
 * @property {[number, number][]} runs of each row: the columns that are not masked
 */

// Viridis by van der Walt and Smith: perceptually uniform, and readable with color blindness.
const ANCHORS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const LEVELS = 256;

/** Red, green, blue and alpha of each of 256 levels. */
export const PALETTE = new Uint8ClampedArray(LEVELS * 4);
for (let level = 0; level < LEVELS; level++) {
  const place = (level / (LEVELS - 1)) * (ANCHORS.length - 1);
  const from = Math.min(Math.floor(place), ANCHORS.length - 2);
  for (let part = 0; part < 3; part++) {
    PALETTE[4 * level + part] = Math.round(ANCHORS[from][part] + (place - from) * (ANCHORS[from + 1][part] - ANCHORS[from][part]));
  }
  PALETTE[4 * level + 3] = 255;
}

/**
 * Returns the position in PALETTE of a level from 0 to 1.
 * @param {number} level
 */
export function paletteAt(level) {
  return 4 * Math.round(Math.max(0, Math.min(1, level)) * (LEVELS - 1));
}

/**
 * Returns the color of a level from 0 to 1.
 * @param {number} level
 */
export function colorOf(level) {
  const at = paletteAt(level);
  return `rgb(${PALETTE[at]}, ${PALETTE[at + 1]}, ${PALETTE[at + 2]})`;
}

/** Returns the colors of the palette at equal distances. */
export function paletteColors() {
  return ANCHORS.map((color) => `rgb(${color.join(", ")})`);
}

/**
 * Returns the columns that are not shown: the first token or the special tokens, if they are switched off.
 * @param {Page} page
 * @param {Unit[]} columns
 * @returns {boolean[]}
 */
export function hiddenColumns(page, columns) {
  return state.idle ? columns.map(() => false) : idleColumns(page.attention, page.causalAlone, columns);
}

/**
 * Returns the columns of a row that are not masked in a layer: the first, and the one after the last.
 * @param {Attention} attention
 * @param {number | null} layer
 * @param {Unit} row
 * @param {Unit[]} columns
 * @returns {[number, number]}
 */
export function openColumns(attention, layer, row, columns) {
  const stop = reachOf(attention, row, columns);
  let start = 0;
  if (attention.windows.some((window) => window !== null)) while (start < stop && isMasked(attention, layer, row, columns[start])) start++;
  return [start, stop];
}

/**
 * Returns the columns of a row that are not masked in a picture. A window limits a layer; rollout passes several layers,
 * so no window limits it.
 * @param {Page} page
 * @param {import("./measure.js").Selection} selection
 * @param {Unit} row
 * @param {Unit[]} columns
 * @returns {[number, number]}
 */
export function openInPicture({ attention, measure }, { layer }, row, columns) {
  return measure === "rollout" ? [0, reachOf(attention, row, columns)] : openColumns(attention, layer, row, columns);
}

/**
 * Returns the colors of all selected heads. Rollout has one matrix, whatever is selected.
 * @param {Page} page
 * @returns {Heat[]}
 */
export function heatsOf(page) {
  const heats = page.pictured.map(({ name, selection, color }) => {
    const matrix = page.matrix(selection);
    const runs = matrix.rows.map((row) => openInPicture(page, selection, row, matrix.columns));
    return colored(matrix, runs, hiddenColumns(page, matrix.columns), { name, color });
  });
  if (!state.common) return heats;
  const most = Math.max(...heats.map((heat) => heat.most));
  for (const heat of heats) {
    if (heat.most < most) heat.levels.forEach((level, at) => (heat.levels[at] = (level * heat.most) / most));
    heat.most = most;
  }
  return heats;
}

/**
 * Returns the levels of a matrix. A weight is divided by the largest one that is shown. A rollout is divided by its
 * baseline: the ratio 1 has the middle color, the largest ratio the last, and its inverse the first.
 * @param {Matrix} matrix
 * @param {[number, number][]} runs
 * @param {boolean[]} hidden
 * @param {{name: string, color: string}} of
 * @returns {Heat}
 */
function colored(matrix, runs, hidden, of) {
  const { columns, values, even } = matrix;
  const levels = new Float32Array(values.length).fill(NaN);
  let most = even ? Math.log(1.05) : 1e-9;
  runs.forEach(([start, stop], row) => {
    for (let column = start; column < stop; column++) {
      const at = row * columns.length + column;
      if (hidden[column] || (even && !even[at])) continue;
      levels[at] = even ? Math.log(values[at] / even[at]) : values[at];
      if (levels[at] > most) most = levels[at];
    }
  });
  for (let at = 0; at < levels.length; at++) levels[at] = even ? 0.5 + (0.5 * Math.max(levels[at], -most)) / most : levels[at] / most;
  return { ...of, matrix, levels, runs, most: even ? Math.exp(most) : most };
}

/**
 * Returns a canvas with a pixel for every cell. Cells without a color are transparent.
 * @param {Float32Array} levels
 * @param {number} columns
 */
export function painted(levels, columns) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = levels.length / columns;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < levels.length; at++) if (levels[at] === levels[at]) pixels[at] = COLORS[paletteAt(levels[at]) / 4];
  context.putImageData(image, 0, 0);
  return canvas;
}
const COLORS = new Uint32Array(PALETTE.buffer);
