// @ts-check
// The grid of a map: the size of its cells, and the labels of its rows and columns.

import { svg } from "./dom.js";
import { isolated } from "./format.js";

/** @typedef {import("./measure.js").Unit} Unit */
/**
 * Sizes in pixels.
 * @typedef {object} Grid
 * @property {number} cellX width of a cell
 * @property {number} cellY height of a cell
 * @property {number} left width of the row labels
 * @property {number} top height of the column labels
 * @property {number} over width of the labels that lean over the last column
 * @property {boolean} rowLabels whether rows are labelled by tokens; otherwise by some indices
 * @property {boolean} columnLabels
 * @property {number} angle of the column labels, in degrees; 0 for indices, and for tokens that fit above a cell
 */

const FONT = 12;
const LABELLED = 14; // the smallest cell that is labelled
const LARGEST = 40;
const HEIGHT = 500; // pixels of the rows, unless their cells would be smaller than COMFORTABLE
const COMFORTABLE = 22;
const SMALLEST = 3;
const INDICES = 34; // width of row labels that are indices
const UPRIGHT = 22; // height of column labels that are upright
const PAD = 6;

/**
 * Returns the sizes that fit a width. A map of all rows has square cells.
 * @param {Unit[]} rows
 * @param {Unit[]} columns
 * @param {number} width pixels
 * @param {boolean} squared whether cells are squares
 * @returns {Grid}
 */
export function gridOf(rows, columns, width, squared) {
  const narrow = width < 480;
  const most = narrow ? 84 : 130;
  const angle = narrow ? 90 : 55;
  const long = longest(columns, most) + PAD;
  const high = Math.ceil(long * Math.sin((angle * Math.PI) / 180)) + PAD;
  const over = Math.ceil(long * Math.cos((angle * Math.PI) / 180)) + (narrow ? 0 : PAD);
  const named = longest(rows, most) + 2 * PAD;
  const fitting = Math.floor((width - named - over) / columns.length);
  const labelled = fitting >= LABELLED || columns.length <= 24;
  const plain = Math.max(SMALLEST, Math.min(LABELLED - 1, Math.floor((width - INDICES) / columns.length)));
  const largest = Math.min(LARGEST, Math.max(COMFORTABLE, Math.floor(HEIGHT / rows.length)));
  const cellX = labelled ? Math.max(LABELLED, Math.min(largest, fitting)) : plain;
  const cellY = squared || cellX > LABELLED ? cellX : LABELLED;
  const rowLabels = cellY >= LABELLED;
  const upright = !labelled || long - PAD <= cellX - PAD;
  const top = upright ? { top: UPRIGHT, over: 0, angle: 0 } : { top: high, over, angle };
  return { cellX, cellY, left: rowLabels ? named : INDICES, ...top, rowLabels, columnLabels: labelled };
}

/**
 * Returns the smallest width at which both sides are labelled.
 * @param {Unit[]} rows
 * @param {Unit[]} columns
 */
export function labelledWidth(rows, columns) {
  return longest(rows, 130) + longest(columns, 130) + 4 * PAD + LABELLED * columns.length;
}

/** @type {CanvasRenderingContext2D | null} */
let ruler = null;

/**
 * Returns the width of a label in pixels.
 * @param {string} label
 */
function widthOf(label) {
  ruler ??= /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  ruler.font = `${FONT}px monospace`;
  return ruler.measureText(label).width;
}

/**
 * Returns the width of the longest label, at most `most`.
 * @param {Unit[]} units
 * @param {number} most
 */
function longest(units, most) {
  return Math.ceil(units.reduce((width, { label }) => (width < most ? Math.min(most, Math.max(width, widthOf(label))) : width), 12));
}

/**
 * Returns a label that fits a width, cut at its end.
 * @param {string} label
 * @param {number} width pixels
 */
function fitted(label, width) {
  if (widthOf(label) <= width + 1) return label;
  const letters = [...label];
  while (letters.length > 1 && widthOf(`${letters.join("")}…`) > width) letters.pop();
  return `${letters.join("")}…`;
}

/**
 * Returns the distance of two labelled indices, so that the numbers do not touch.
 * @param {number} cell pixels
 */
function indexStep(cell) {
  return [1, 2, 5, 10, 20, 50, 100, 200].find((step) => step * cell >= 26) ?? 500;
}

/**
 * Returns the labels of the rows, in a box of the width `grid.left`.
 * @param {Grid} grid
 * @param {Unit[]} rows
 */
export function rowLabels(grid, rows) {
  const step = grid.rowLabels ? 1 : indexStep(grid.cellY);
  const group = svg("g", { "font-family": "var(--mono, monospace)", "font-size": grid.rowLabels ? FONT : 10, "text-anchor": "end", fill: "var(--ink)" });
  rows.forEach((row, at) => {
    if (at % step) return;
    const label = grid.rowLabels ? isolated(fitted(row.label, grid.left - 2 * PAD)) : String(row.index);
    group.append(svg("text", { x: grid.left - PAD, y: (at + 0.5) * grid.cellY + 4, "data-at": at, fill: row.special ? "var(--quiet)" : null }, label));
  });
  return group;
}

/**
 * Returns the labels of the columns, in a box of the height `grid.top`.
 * @param {Grid} grid
 * @param {Unit[]} columns
 */
export function columnLabels(grid, columns) {
  const step = grid.columnLabels ? 1 : indexStep(grid.cellX);
  const group = svg("g", { "font-family": "var(--mono, monospace)", "font-size": grid.columnLabels ? FONT : 10, "text-anchor": grid.angle ? "start" : "middle", fill: "var(--ink)" });
  const long = grid.angle ? (grid.top - PAD) / Math.sin((grid.angle * Math.PI) / 180) - PAD : grid.cellX;
  columns.forEach((column, at) => {
    if (at % step) return;
    const x = (at + 0.5) * grid.cellX;
    const place = grid.angle ? { x: 0, y: 4, transform: `translate(${x} ${grid.top - PAD}) rotate(-${grid.angle})` } : { x, y: grid.top - PAD };
    const label = grid.columnLabels ? isolated(fitted(column.label, long + 1)) : String(column.index);
    group.append(svg("text", { ...place, "data-at": at, fill: column.special ? "var(--quiet)" : null }, label));
  });
  return group;
}
