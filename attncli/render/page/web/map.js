// @ts-check
// The map: the matrix of each selected head, a row for each token that attends, a column for each source.

import { element, fill, svg } from "./dom.js";
import { number, percent, percentOf, text, unitName } from "./format.js";
import { columnLabels, gridOf, labelledWidth, rowLabels } from "./grid.js";
import { colorOf, heatsOf, hiddenColumns, painted, paletteColors } from "./heat.js";
import { headName } from "./lines.js";
import { idleColumns, unitOf } from "./measure.js";
import { state } from "./state.js";
import { tableBehind } from "./table.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./heat.js").Heat} Heat */
/** @typedef {import("./grid.js").Grid} Grid */
/** @typedef {import("./measure.js").Unit} Unit */
/** @typedef {{row: number, column: number}} Cell positions among the units */
/** @typedef {{element: HTMLElement, frame: HTMLElement, rows: SVGSVGElement, columns: SVGSVGElement, marks: SVGSVGElement}} Drawn */

const GAP = 24; // pixels between two maps
const NARROWEST = 250; // pixels of a map, if several are side by side
const GAPPED = 8; // pixels of the smallest cell that is separated from the next by a gap
const MOST_CELLS = 4000; // of a table with all rows
const MOST_RECTANGLES = 1600; // of a picture whose cells are rectangles; with more, they are an image
const PICTURE = 620; // pixels: width of one map of a picture

/** The maps of one page, and the cell under the pointer or the keyboard. */
class Maps {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    /** @type {Heat[]} */
    this.heats = [];
    /** @type {Drawn[]} */
    this.drawn = [];
    /** @type {Grid} */
    this.grid = gridOf([], [], 0, true);
    /** @type {Cell | null} */
    this.cell = null;
    this.width = 0;
    this.readout = element("p", { class: "map-readout" });
    this.status = element("p", { class: "sr-only", role: "status" });
    this.legend = element("div", { class: "map-legends" });
    this.holder = element("div", { class: "maps", tabindex: "0", role: "application" });
    this.share = element("p", { class: "note map-share" });
    this.table = tableBehind(() => tableOf(this));
    this.element = element("div", { class: "map" }, this.readout, this.status, this.legend, this.holder, this.share, this.table.element);
    this.holder.addEventListener("keydown", (event) => onKey(this, event));
    this.holder.addEventListener("focus", () => this.holder.matches(":focus-visible") && point(this, startCell(this), true));
    this.holder.addEventListener("blur", () => point(this, null, false));
    new ResizeObserver(() => requestAnimationFrame(() => this.holder.clientWidth && this.holder.clientWidth !== this.width && build(this))).observe(this.holder);
  }

  get rows() {
    return this.heats[0].matrix.rows;
  }

  get columns() {
    return this.heats[0].matrix.columns;
  }
}

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void, picture: () => SVGSVGElement}}
 */
export function createMap(page) {
  const maps = new Maps(page);
  const layout = ["all", "words", "part", "heads", "measure", "idle", "common", "language"];
  const update = (/** @type {Set<string>} */ changed) => {
    const rebuilt = layout.some((name) => changed.has(name));
    if (rebuilt) {
      maps.heats = heatsOf(page);
      maps.cell = null;
      build(maps);
    } else mark(maps);
    if (["row", "row2"].some((name) => changed.has(name))) intoView(maps, page.shownUnit, null);
    if (rebuilt || !whole(maps)) maps.table.update();
  };
  return { element: maps.element, update, picture: () => lonePicture(maps) };
}

/**
 * Builds the maps, at the size that fits.
 * @param {Maps} maps
 */
function build(maps) {
  const { page, heats, rows, columns, holder } = maps;
  maps.width = holder.clientWidth;
  const least = Math.min(maps.width, Math.max(NARROWEST, labelledWidth(rows, columns)));
  const beside = Math.min(heats.length, Math.max(1, Math.floor((maps.width + GAP) / (least + GAP))));
  maps.grid = gridOf(rows, columns, Math.floor((maps.width - GAP * (beside - 1)) / beside), rows.length === page.attention.rows.length || state.words);
  holder.setAttribute("aria-label", text("map.label", { heads: heats.map(({ name }) => headName(name)).join(", ") }));
  const scrolled = maps.drawn.map(({ frame }) => [frame.scrollLeft, frame.scrollTop]);
  maps.drawn = heats.map((heat) => drawnMap(maps, heat));
  fill(holder, ...maps.drawn.map((drawn) => drawn.element));
  const shared = state.common && heats.length > 1;
  fill(maps.legend, shared && legendOf(heats[0]));
  mark(maps);
  maps.drawn.forEach(({ frame }, at) => scrolled[at] && frame.scrollTo(scrolled[at][0], scrolled[at][1]));
  intoView(maps, page.shownUnit, page.column === null ? page.shown : page.column);
}

/**
 * Returns one map: its name, its color scale, its labels and its cells.
 * @param {Maps} maps
 * @param {Heat} heat
 * @returns {Drawn}
 */
function drawnMap(maps, heat) {
  const { grid, heats } = maps;
  const { rows, columns } = heat.matrix;
  const [width, height] = [grid.cellX * columns.length, grid.cellY * rows.length];
  const box = (/** @type {string} */ name, /** @type {number} */ wide, /** @type {number} */ high, /** @type {SVGElement} */ content) =>
    svg("svg", { class: name, width: wide, height: high, "aria-hidden": "true" }, content);
  const columnBox = box("map-columns", width + grid.over, grid.top, columnLabels(grid, columns));
  const rowBox = box("map-rows", grid.left, height, rowLabels(grid, rows));
  const marks = svg("svg", { class: "map-marks", width, height, "aria-hidden": "true" });
  const cells = element("div", { class: "map-cells" }, canvasOf(heat, grid, hiddenColumns(maps.page, columns)), marks);
  const at = (/** @type {PointerEvent | MouseEvent} */ event) => cellAt(maps, event, cells);
  cells.addEventListener("pointermove", (event) => point(maps, at(event), false));
  cells.addEventListener("pointerleave", () => point(maps, null, false));
  cells.addEventListener("click", (event) => choose(maps, at(event)));
  const frame = element("div", { class: "map-frame", tabindex: "-1" }, element("span", { class: "map-corner" }), columnBox, rowBox, cells);
  frame.style.gridTemplateColumns = `${grid.left}px ${width + grid.over}px`;
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = heat.color;
  const alone = !state.common || heats.length === 1;
  const title = element("figcaption", {}, swatch, element("span", {}, headName(heat.name)), alone && legendOf(heat));
  return { element: element("figure", { class: "map-one" }, title, frame), frame, rows: rowBox, columns: columnBox, marks };
}

/**
 * Returns the cells as a canvas with the resolution of the screen. Masked cells are hatched, hidden columns are empty.
 * @param {Heat} heat
 * @param {Grid} grid
 * @param {boolean[]} hidden
 */
function canvasOf(heat, grid, hidden) {
  const { rows, columns } = heat.matrix;
  const ratio = window.devicePixelRatio || 1;
  const [cellX, cellY] = [grid.cellX * ratio, grid.cellY * ratio];
  const canvas = element("canvas", { width: Math.round(cellX * columns.length), height: Math.round(cellY * rows.length), "aria-hidden": "true" });
  canvas.style.width = `${grid.cellX * columns.length}px`;
  canvas.style.height = `${grid.cellY * rows.length}px`;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingEnabled = false;
  context.drawImage(painted(heat.levels, columns.length), 0, 0, canvas.width, canvas.height);
  if (Math.min(grid.cellX, grid.cellY) >= GAPPED) {
    for (let row = 1; row < rows.length; row++) context.clearRect(0, Math.round(row * cellY), canvas.width, Math.round(ratio));
    for (let column = 1; column < columns.length; column++) context.clearRect(Math.round(column * cellX), 0, Math.round(ratio), canvas.height);
  }
  context.fillStyle = hatch(context, ratio);
  for (const [row, start, stop] of maskedRuns(heat)) context.fillRect(Math.round(start * cellX), Math.round(row * cellY), Math.round((stop - start) * cellX), Math.round(cellY));
  context.fillStyle = "rgba(128, 128, 128, 0.16)";
  hidden.forEach((isHidden, column) => isHidden && context.fillRect(Math.round(column * cellX), 0, Math.round(cellX), canvas.height));
  return canvas;
}

/**
 * Returns the masked cells of a map as runs: the row, the first column, the column after the last.
 * @param {Heat} heat
 * @returns {[number, number, number][]}
 */
function maskedRuns({ runs, matrix }) {
  const count = matrix.columns.length;
  return runs.flatMap(([start, stop], row) => /** @type {[number, number, number][]} */ ([[row, 0, start], [row, stop, count]]).filter(([, from, to]) => from < to));
}

/**
 * Returns thin diagonal lines, which fill the cells that are masked.
 * @param {CanvasRenderingContext2D} context
 * @param {number} ratio pixels of the screen for each pixel of the page
 */
function hatch(context, ratio) {
  const size = Math.round(6 * ratio);
  const tile = element("canvas", { width: size, height: size });
  const lines = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  lines.strokeStyle = "rgba(128, 128, 128, 0.38)";
  lines.lineWidth = ratio;
  lines.beginPath();
  for (const shift of [-size, 0, size]) {
    lines.moveTo(shift - 1, size + 1);
    lines.lineTo(shift + size + 1, -1);
  }
  lines.stroke();
  return /** @type {CanvasPattern} */ (context.createPattern(tile, "repeat"));
}

/**
 * Returns the color scale: its first number, the palette, its last number.
 * @param {Heat} heat
 */
function legendOf(heat) {
  const bar = element("span", { class: "legend-bar" });
  bar.style.background = `linear-gradient(to right, ${paletteColors().join(", ")})`;
  const [from, to] = ends(heat);
  const even = heat.matrix.even;
  return element("span", { class: "legend", title: text(even ? "map.legend.ratio" : "map.legend") }, from, bar, to, even && ` · ${text("map.legend.middle")}`);
}

/**
 * Returns the numbers at the ends of the color scale.
 * @param {Heat} heat
 */
function ends(heat) {
  return heat.matrix.even ? [times(1 / heat.most), times(heat.most)] : [percentOf(0, 0), percent(heat.most)];
}

/**
 * Formats a ratio: ×0.12, ×3.4, ×120.
 * @param {number} ratio
 */
function times(ratio) {
  return `×${number(ratio, ratio >= 100 ? 3 : 2)}`;
}

/**
 * Returns the cell under the pointer.
 * @param {Maps} maps
 * @param {PointerEvent | MouseEvent} event
 * @param {HTMLElement} cells
 * @returns {Cell}
 */
function cellAt({ grid, rows, columns }, event, cells) {
  const box = cells.getBoundingClientRect();
  const within = (/** @type {number} */ place, /** @type {number} */ count) => Math.max(0, Math.min(count - 1, Math.floor(place)));
  return { row: within((event.clientY - box.top) / grid.cellY, rows.length), column: within((event.clientX - box.left) / grid.cellX, columns.length) };
}

/**
 * Shows a cell in all maps, and its numbers; null ends this. `spoken` announces the numbers.
 * @param {Maps} maps
 * @param {Cell | null} cell
 * @param {boolean} spoken
 */
function point(maps, cell, spoken) {
  if (maps.cell?.row === cell?.row && maps.cell?.column === cell?.column) return;
  maps.cell = cell;
  maps.page.preview(cell ? maps.rows[cell.row].stop - 1 : null);
  mark(maps);
  if (!spoken || !cell) return;
  maps.status.textContent = maps.readout.textContent;
  intoView(maps, cell.row, cell.column);
}

/**
 * Locks the row of a cell and chooses its edge, unless the cell is masked.
 * @param {Maps} maps
 * @param {Cell} cell
 */
function choose({ page, rows, columns, heats }, { row, column }) {
  page.lock(rows[row].stop - 1);
  if (heats.some((heat) => isOpen(heat, row, column))) page.choose(columns[column].stop - 1, { cut: "edge" });
}

/**
 * Whether a cell is not masked.
 * @param {Heat} heat
 * @param {number} row
 * @param {number} column
 */
function isOpen({ runs }, row, column) {
  return runs[row][0] <= column && column < runs[row][1];
}

/**
 * Returns the cell at which the keyboard begins: the chosen edge, or the largest number of the locked row.
 * @param {Maps} maps
 * @returns {Cell}
 */
function startCell({ page, heats, columns }) {
  const row = page.shownUnit;
  const chosen = page.column === null ? -1 : unitOf(columns, page.column);
  if (chosen >= 0) return { row, column: chosen };
  const levels = heats[0].levels.subarray(row * columns.length, (row + 1) * columns.length);
  return { row, column: levels.reduce((best, level, at) => (level > (levels[best] || 0) ? at : best), 0) };
}

/**
 * Moves the cell with the arrow keys, Home, End, Page Up and Page Down; Enter or Space chooses its edge.
 * @param {Maps} maps
 * @param {KeyboardEvent} event
 */
function onKey(maps, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { rows, columns, heats } = maps;
  const { row, column } = maps.cell ?? startCell(maps);
  /** @type {Record<string, [number, number]>} */
  const moves = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], Home: [row, heats[0].runs[row][0]], End: [row, heats[0].runs[row][1] - 1], PageUp: [row - 10, column], PageDown: [row + 10, column] };
  const to = moves[event.key];
  if (to) point(maps, { row: Math.max(0, Math.min(rows.length - 1, to[0])), column: Math.max(0, Math.min(columns.length - 1, to[1])) }, true);
  else if (event.key === "Enter" || event.key === " ") choose(maps, { row, column });
  else if (event.key === "Escape") point(maps, null, false);
  else return;
  event.preventDefault();
}

/**
 * Marks the locked row, the chosen edge and the cell under the pointer, and shows the numbers of that cell.
 * @param {Maps} maps
 */
function mark(maps) {
  const { page, grid, drawn, heats, cell, rows, columns } = maps;
  const row = page.shownUnit;
  const edge = page.column === null ? -1 : unitOf(columns, page.column);
  const locked = Math.max(0, unitOf(rows, page.row));
  const column = cell ? cell.column : edge;
  const box = (/** @type {string} */ name, /** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ wide, /** @type {number} */ high) =>
    svg("rect", { class: name, x: x * grid.cellX - 0.5, y: y * grid.cellY - 0.5, width: wide * grid.cellX + 1, height: high * grid.cellY + 1 });
  for (const { marks, rows: rowBox, columns: columnBox } of drawn) {
    fill(
      marks,
      box("mark-row", 0, locked, columns.length, 1),
      edge >= 0 && box("mark-edge-under", edge, locked, 1, 1),
      edge >= 0 && box("mark-edge", edge, locked, 1, 1),
      cell && box("mark-under", cell.column, cell.row, 1, 1),
      cell && box("mark-cell", cell.column, cell.row, 1, 1),
    );
    point_(rowBox, row);
    point_(columnBox, column);
  }
  fill(maps.readout, ...(cell ? numbersOf(heats, cell) : [element("span", { class: "note" }, text("map.hint"))]));
  maps.share.textContent = idleSentence(maps, row);
}

/**
 * Emphasizes the label at a position.
 * @param {SVGSVGElement} labels
 * @param {number} at
 */
function point_(labels, at) {
  labels.querySelector(".shown")?.classList.remove("shown");
  labels.querySelector(`[data-at="${at}"]`)?.classList.add("shown");
}

/**
 * Returns the tokens of a cell and its number in every map.
 * @param {Heat[]} heats
 * @param {Cell} cell
 */
function numbersOf(heats, { row, column }) {
  const { rows, columns } = heats[0].matrix;
  const place = text("map.cell", { row: unitName(rows[row]), column: unitName(columns[column]) });
  const values = heats.map((heat) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = heat.color;
    return element("span", { class: "map-number" }, swatch, heats.length > 1 ? `${headName(heat.name)}: ` : "", element("b", {}, numberOf(heat, row, column)));
  });
  return [element("span", { class: "map-place" }, place), " ", ...values.flatMap((value) => [value, " "])];
}

/**
 * Returns the number of a cell: a share, or a rollout with its baseline and their ratio.
 * @param {Heat} heat
 * @param {number} row
 * @param {number} column
 */
function numberOf(heat, row, column) {
  const { values, even, columns } = heat.matrix;
  const at = row * columns.length + column;
  if (!isOpen(heat, row, column)) return text("map.masked");
  if (!even) return percent(values[at]);
  return text("map.rollout", { value: percent(values[at]), even: percent(even[at]), ratio: even[at] ? times(values[at] / even[at]) : "–" });
}

/**
 * Says which share the first token or the special tokens have, in a row and in the mean of all rows.
 * @param {Maps} maps
 * @param {number} row
 */
function idleSentence({ page, heats, rows, columns }, row) {
  const shown = state.idle;
  const idle = idleOf(page, columns);
  if (!idle.length) return "";
  const shares = (/** @type {(heat: Heat) => number} */ share) => heats.map((heat) => (heats.length > 1 ? `${percent(share(heat))} (${heat.name})` : percent(share(heat)))).join(", ");
  const inRow = (/** @type {Heat} */ { matrix }, /** @type {number} */ at) => idle.reduce((sum, column) => sum + matrix.values[at * columns.length + column], 0);
  const mean = (/** @type {Heat} */ heat) => rows.reduce((sum, _, at) => sum + inRow(heat, at), 0) / rows.length;
  const key = `map.${shown ? "shown" : "hidden"}.${page.causalAlone ? "first" : "special"}`;
  return text(key, { row: unitName(rows[row]), share: shares((heat) => inRow(heat, row)), mean: shares(mean) });
}

/**
 * Returns the positions of the columns that idle heads attend to.
 * @param {Page} page
 * @param {Unit[]} columns
 */
function idleOf(page, columns) {
  return idleColumns(page.attention, page.causalAlone, columns).flatMap((isIdle, at) => (isIdle ? [at] : []));
}

/**
 * Scrolls a row and a column into the visible part of every map.
 * @param {Maps} maps
 * @param {number} row
 * @param {number | null} column
 */
function intoView({ grid, drawn }, row, column) {
  for (const { frame } of drawn) {
    const [top, left] = [row * grid.cellY, (column ?? 0) * grid.cellX];
    const [high, wide] = [frame.clientHeight - grid.top, frame.clientWidth - grid.left];
    if (top < frame.scrollTop || top + grid.cellY > frame.scrollTop + high) frame.scrollTop = top - high / 2;
    if (column !== null && (left < frame.scrollLeft || left + grid.cellX > frame.scrollLeft + wide)) frame.scrollLeft = left - wide / 2;
  }
}

/**
 * Whether the table has all rows, not only the row that is shown.
 * @param {Maps} maps
 */
function whole({ heats, rows, columns }) {
  return heats.length * rows.length * columns.length <= MOST_CELLS;
}

/** @param {Maps} maps */
function tableOf(maps) {
  const { page, heats, rows, columns } = maps;
  const shown = whole(maps) ? rows.map((_, at) => at) : [page.shownUnit];
  const cellText = (/** @type {Heat} */ heat, /** @type {number} */ row, /** @type {number} */ column) => {
    const { values, even } = heat.matrix;
    const at = row * columns.length + column;
    if (!isOpen(heat, row, column)) return "";
    return even ? `${percentOf(values[at], 3)} / ${percentOf(even[at], 3)}` : percentOf(values[at], 3);
  };
  return {
    caption: text(whole(maps) ? "map.table" : "map.table.row", { measure: text(`measure.${page.measure}`), row: unitName(rows[page.shownUnit]) }),
    head: [text("map.table.head"), ...columns.map(unitName)],
    rows: heats.flatMap((heat) => shown.map((row) => [`${heats.length > 1 ? `${heat.name} ` : ""}${unitName(rows[row])}`, ...columns.map((_, column) => cellText(heat, row, column))])),
  };
}

/**
 * Returns all maps side by side with their labels and color scales, for a file.
 * @param {Maps} maps
 * @returns {SVGSVGElement}
 */
function lonePicture({ page, heats, rows, columns }) {
  const grid = gridOf(rows, columns, PICTURE, rows.length === page.attention.rows.length || state.words);
  const width = grid.left + columns.length * grid.cellX + Math.max(grid.over, GAP);
  const height = 30 + grid.top + rows.length * grid.cellY + GAP;
  const beside = Math.min(heats.length, 2);
  const maps = heats.map((heat, at) => svg("g", { transform: `translate(${(at % beside) * width} ${Math.floor(at / beside) * height})` }, ...mapPicture(page, heat, grid)));
  const size = [beside * width, Math.ceil(heats.length / beside) * height];
  return svg("svg", { viewBox: `0 0 ${size.join(" ")}`, width: size[0], height: size[1], "font-family": "sans-serif", "font-size": 14 }, paletteAndHatch(), ...maps);
}

/** Returns the definitions of the palette and of the hatching. */
function paletteAndHatch() {
  const colors = paletteColors();
  const stops = colors.map((color, at) => svg("stop", { offset: at / (colors.length - 1), "stop-color": color }));
  const line = svg("path", { d: "M-1 7L7 -1", stroke: "var(--quiet)", "stroke-opacity": 0.45, "stroke-width": 0.8 });
  return svg("defs", {}, svg("linearGradient", { id: "palette" }, ...stops), svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, line));
}

/**
 * Returns the parts of one map of a picture: its name, its color scale, its labels and its cells.
 * @param {Page} page
 * @param {Heat} heat
 * @param {Grid} grid
 */
function mapPicture(page, heat, grid) {
  const { rows, columns } = heat.matrix;
  const [from, to] = ends(heat);
  const [wide, high] = [columns.length * grid.cellX, rows.length * grid.cellY];
  const masked = maskedRuns(heat).map(([row, start, stop]) => `M${start * grid.cellX} ${row * grid.cellY}h${(stop - start) * grid.cellX}v${grid.cellY}H${start * grid.cellX}z`);
  const hidden = hiddenColumns(page, columns).flatMap((isHidden, at) => (isHidden ? [svg("rect", { x: at * grid.cellX, width: grid.cellX, height: high, fill: "var(--quiet)", "fill-opacity": 0.16 })] : []));
  const edge = page.column === null ? -1 : unitOf(columns, page.column);
  const row = Math.max(0, unitOf(rows, page.row));
  const mark = (/** @type {string} */ stroke, /** @type {number} */ wide) =>
    edge >= 0 && svg("rect", { x: edge * grid.cellX - 0.5, y: row * grid.cellY - 0.5, width: grid.cellX, height: grid.cellY, fill: "none", stroke, "stroke-width": wide });
  return [
    svg("text", { x: 6, y: 16, fill: heat.color, "font-weight": "bold" }, headName(heat.name)),
    svg("text", { x: 122, y: 16, fill: "var(--quiet)", "font-size": 12, "text-anchor": "end" }, from),
    svg("rect", { x: 130, y: 7, width: 100, height: 10, fill: "url(#palette)" }),
    svg("text", { x: 238, y: 16, fill: "var(--quiet)", "font-size": 12 }, heat.matrix.even ? `${to} · ${text("map.legend.middle")}` : to),
    svg("g", { transform: `translate(${grid.left} 30)` }, columnLabels(grid, columns)),
    svg("g", { transform: `translate(0 ${30 + grid.top})` }, rowLabels(grid, rows)),
    svg("g", { transform: `translate(${grid.left} ${30 + grid.top})` }, svg("path", { d: masked.join(""), fill: "url(#hatch)" }), ...cellPicture(heat, grid, wide, high), ...hidden, mark("var(--paper)", 6), mark("var(--accent)", 3)),
  ];
}

/**
 * Returns the cells of a map of a picture: rectangles, or an image if there are many.
 * @param {Heat} heat
 * @param {Grid} grid
 * @param {number} width
 * @param {number} height
 * @returns {SVGElement[]}
 */
function cellPicture({ levels, matrix }, grid, width, height) {
  const count = matrix.columns.length;
  if (levels.length > MOST_RECTANGLES) {
    return [svg("image", { href: painted(levels, count).toDataURL(), width, height, preserveAspectRatio: "none", "image-rendering": "pixelated" })];
  }
  const gap = grid.cellX >= GAPPED ? 1 : 0;
  return [...levels].flatMap((level, at) => {
    if (Number.isNaN(level)) return [];
    return [svg("rect", { x: (at % count) * grid.cellX, y: Math.floor(at / count) * grid.cellY, width: grid.cellX - gap, height: grid.cellY - gap, fill: colorOf(level) })];
  });
}
