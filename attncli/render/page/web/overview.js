// @ts-check
// All heads at once: a small map of every head, labelled by the pattern that it follows.

import { element, fill, keepFocus, roving, svg } from "./dom.js";
import { percent, percentOf, text, unitName } from "./format.js";
import { isIdleKind, scoresOf, sortedHeads, standsOut, worthALook } from "./kinds.js";
import { headName } from "./lines.js";
import { selectionName } from "./measure.js";
import { change, state } from "./state.js";
import { tableBehind } from "./table.js";
import { Thumbnails } from "./thumbnail.js";
import { choose, labelled, select } from "./toolbar.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./kinds.js").Head} Head */
/** @typedef {import("./kinds.js").Found} Found */

const SMALLEST = 46; // pixels of a thumbnail
const LARGEST = 92;
const AROUND = 12; // pixels around a thumbnail
const LAYER = 62; // pixels of the names of layers
const SLICE = 12; // milliseconds of drawing before the page may do something else

/** The thumbnails of one page. */
class Overview {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.thumbnails = new Thumbnails(page);
    this.width = 0;
    this.controls = element("div", { class: "toolbar" });
    this.first = element("p", { class: "overview-first" });
    this.note = element("p", { class: "note" });
    this.grid = element("div", { class: "overview", role: "group" });
    this.table = tableBehind(() => tableOf(this));
    this.element = element("div", {}, this.controls, this.first, element("div", { class: "overview-scroll", tabindex: "-1" }, this.grid), this.note, this.table.element);
    /** @type {(() => void)[]} */
    this.waiting = [];
    const resized = () => this.element.clientWidth && this.element.clientWidth !== this.width && build(this);
    new ResizeObserver(() => requestAnimationFrame(resized)).observe(this.element);
  }

  /** How heads are sorted: by a kind, by the chosen "edge", or by "layer". */
  get order() {
    return state.sort === "edge" || this.page.attention.kinds?.names.includes(state.sort) ? state.sort : "layer";
  }

  /** The source of the edge whose share is shown, as a token; null if none is chosen. */
  get source() {
    return this.page.column !== null || this.order === "edge" ? this.page.source : null;
  }

  /** The heads in their order. @returns {Head[]} */
  get heads() {
    const { page, order } = this;
    if (order !== "edge") return sortedHeads(page.attention, order);
    const { source } = page;
    return sortedHeads(page.attention, "layer").sort((one, other) => page.shareIn(other, source) - page.shareIn(one, source));
  }

  /** The names of the row and of the source of the edge, and of its measure. */
  get edge() {
    const { attention, row, headMeasure } = this.page;
    const column = this.source ?? 0;
    return { row: unitName({ label: attention.rows[row].label, index: row + attention.first }), column: unitName({ label: attention.columns[column].label, index: column }), measure: text(`measure.${headMeasure}`) };
  }
}

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void, picture: () => SVGSVGElement}}
 */
export function createOverview(page) {
  const overview = new Overview(page);
  const update = (/** @type {Set<string>} */ changed) => {
    const has = (/** @type {string[]} */ ...names) => names.some((name) => changed.has(name));
    if (has("all", "language", "part")) head(overview);
    const edge = has("row", "row2", "column", "column2") || (has("heads") && overview.order === "edge");
    if (edge || has("all", "language", "part", "measure", "idle", "common", "sort")) build(overview);
    else if (has("heads")) markChosen(overview);
    if (edge || has("all", "language", "part", "measure", "sort")) overview.table.update();
  };
  return { element: overview.element, update, picture: () => lonePicture(overview) };
}

/**
 * Builds the controls, and the sentence about the head to look at first.
 * @param {Overview} overview
 */
function head({ page, controls, first }) {
  const { attention } = page;
  const { kinds } = attention;
  const orders = [...["layer", "edge"].map((name) => [name, text(`sort.${name}`)]), ...(kinds ? kinds.names.map((name) => [name, text(`kind.${name}`)]) : [])];
  fill(controls, labelled("sort", select("sort", /** @type {[string, string][]} */ (orders)), "help.sort"));
  const best = worthALook(attention);
  const name = best && selectionName(best);
  fill(
    first,
    ...(best && name
      ? [
          `${text("overview.first")} `,
          element("button", { type: "button", onclick: () => enlarge(page, name, false) }, headName(name)),
          text("overview.why", { score: percent(best.score), place: text(`kind.${best.kind}.place`), chance: percent(best.chance) }),
        ]
      : [kinds ? text("overview.none") : ""]),
  );
}

/**
 * Chooses a head and shows its map. With `more`, adds the head to the chosen ones, or removes it, and stays.
 * @param {Page} page
 * @param {string} name
 * @param {boolean} more
 */
function enlarge(page, name, more) {
  choose(page, name, more);
  if (!more) change(page.measure === "rollout" ? { view: "map", measure: "norm" } : { view: "map" });
}

/**
 * Returns the side of a thumbnail in pixels.
 * @param {Overview} overview
 */
function sideOf({ page, width }) {
  const fitting = Math.floor((width - LAYER) / page.attention.heads) - AROUND;
  return Math.max(SMALLEST, Math.min(LARGEST, fitting));
}

/**
 * Builds the thumbnails. They are drawn in slices, so that the page reacts meanwhile.
 * @param {Overview} overview
 */
function build(overview) {
  const { page, grid, note } = overview;
  const { attention } = page;
  overview.width = overview.element.clientWidth;
  overview.waiting = [];
  const side = sideOf(overview);
  const byLayer = overview.order === "layer";
  /** @type {HTMLSelectElement} */ (overview.controls.querySelector("select")).value = overview.order;
  const size = sizeOf(overview, side);
  const buttons = overview.heads.map((each) => button(overview, each, side, size));
  const names = [...Array(attention.layers).keys()].map((layer) => element("span", { class: "overview-layer" }, text("heads.short", { layer })));
  grid.setAttribute("aria-label", text("overview"));
  grid.classList.toggle("by-layer", byLayer);
  grid.style.gridTemplateColumns = byLayer ? `${LAYER - 6}px repeat(${attention.heads}, max-content)` : "";
  keepFocus(grid, () => fill(grid, ...buttons.flatMap((made, at) => (byLayer && at % attention.heads === 0 ? [names[at / attention.heads], made] : [made]))));
  frame(overview, size);
  markChosen(overview);
  roving(grid, "button", byLayer ? attention.heads : 0);
  note.textContent = noteOf(overview);
  drawWaiting(overview, overview.waiting);
}

/**
 * Returns the width and height of a thumbnail on the page: a whole number of pixels for each cell, if cells are large.
 * @param {Overview} overview
 * @param {number} side
 */
function sizeOf({ thumbnails }, side) {
  const [, , height, width] = thumbnails.source().array.shape;
  const cells = Math.max(height, width);
  const cell = 3 * cells <= side ? Math.floor(side / cells) : side / cells;
  return { width: width * cell, height: height * cell };
}

/**
 * Returns the place of the locked row, and of the cell of the edge, as shares of a thumbnail: start and length.
 * @param {Overview} overview
 */
function placeOf({ page, thumbnails, source }) {
  const { thumbnails: pooled, stored } = page.attention;
  const [, , height, width] = thumbnails.source().array.shape;
  const row = pooled ? Math.floor(page.row / pooled.pool) : page.row - stored[0];
  const column = source === null ? null : Math.min(width - 1, pooled ? Math.floor(source / pooled.pool) : source);
  return { top: row / height, high: 1 / height, left: column === null ? null : column / width, wide: 1 / width };
}

/**
 * Frames the locked row in every thumbnail, and the cell of the edge.
 * @param {Overview} overview
 * @param {{width: number, height: number}} size of a thumbnail in pixels
 */
function frame(overview, { width, height }) {
  const { top, high, left, wide } = placeOf(overview);
  const { style, classList } = overview.grid;
  const pixels = { "--top": top * height, "--high": high * height, "--left": (left ?? 0) * width, "--wide": wide * width, "--across": width };
  for (const [name, value] of Object.entries(pixels)) style.setProperty(name, `${value.toFixed(2)}px`);
  classList.toggle("with-edge", left !== null);
}

/**
 * Says what the thumbnails show, and how the kinds were measured.
 * @param {Overview} overview
 */
function noteOf({ page, thumbnails, source, edge }) {
  const { thumbnails: pooled, kinds } = page.attention;
  const shown = pooled ? text("overview.pooled", { pool: pooled.pool }) : text("overview.shown", { measure: text(`measure.${thumbnails.measure}`) });
  const hidden = pooled && pooled.pool > 1 && !state.idle ? [text("overview.hidden")] : [];
  const measured = kinds ? [text("overview.measured", { sequences: kinds.sequences, length: kinds.length })] : [];
  return [shown, ...hidden, text(source === null ? "overview.row" : "overview.edge", edge), ...measured].join(" ");
}

/**
 * Returns the button of a head: its thumbnail, its name, and the kind at which it stands out.
 * @param {Overview} overview
 * @param {Head} which
 * @param {number} side
 * @param {{width: number, height: number}} size
 */
function button(overview, which, side, size) {
  const { page } = overview;
  const name = selectionName(which);
  const found = standsOut(page.attention.kinds, which);
  const holder = element("span", { class: "thumb-picture" });
  holder.style.width = holder.style.height = `${side}px`;
  overview.waiting.push(() => fill(holder, sized(overview.thumbnails.of(which, side * Math.max(1, Math.round(window.devicePixelRatio || 1))), size)));
  const badge = element("span", { class: `thumb-kind${found && !isIdleKind(found.kind) ? " busy" : ""}` }, found ? `${text(`kind.${found.kind}`)} ${percentOf(found.score, 0)}` : "");
  badge.style.width = `${side}px`;
  const { source, edge } = overview;
  const share = source === null ? "" : percent(page.shareIn(which, source));
  const about = `${headName(name)}${share && ` (${text("overview.edge.name", edge)}: ${share})`}${found ? `: ${text("overview.kind", { kind: text(`kind.${found.kind}`), score: percent(found.score), chance: percent(found.chance) })}` : ""}`;
  const onclick = (/** @type {MouseEvent} */ event) => enlarge(page, name, event.shiftKey || event.ctrlKey || event.metaKey);
  return element("button", { type: "button", class: "thumb", "data-head": name, "aria-label": about, title: about, onclick }, holder, element("span", { class: "thumb-name" }, name, share && element("span", { class: "thumb-share" }, share)), badge);
}

/**
 * Sets the size of a thumbnail on the page.
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number}} size
 */
function sized(canvas, { width, height }) {
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

/**
 * Draws thumbnails for a few milliseconds, then lets the page react and goes on. A new list ends the drawing of an old
 * one.
 * @param {Overview} overview
 * @param {(() => void)[]} waiting
 */
function drawWaiting(overview, waiting) {
  if (overview.waiting !== waiting) return;
  const start = performance.now();
  while (waiting.length && performance.now() - start < SLICE) /** @type {() => void} */ (waiting.shift())();
  overview.grid.setAttribute("aria-busy", String(waiting.length > 0));
  if (waiting.length) setTimeout(() => drawWaiting(overview, waiting));
}

/**
 * Marks the chosen heads with their colors.
 * @param {Overview} overview
 */
function markChosen({ page, grid }) {
  const colors = new Map(page.chosen.map(({ name, color }) => [name, color]));
  for (const each of /** @type {NodeListOf<HTMLElement>} */ (grid.querySelectorAll(".thumb"))) {
    const color = colors.get(/** @type {string} */ (each.dataset.head));
    each.setAttribute("aria-pressed", String(color !== undefined));
    each.style.setProperty("--color", color ?? "transparent");
  }
}

/** @param {Overview} overview */
function tableOf({ page, heads, source, edge }) {
  const { kinds } = page.attention;
  const score = (/** @type {number} */ value) => (Number.isNaN(value) ? "–" : percentOf(value, 1));
  const names = kinds ? kinds.names : [];
  return {
    caption: text("overview.table"),
    head: [text("overview.head"), ...(source === null ? [] : [text("overview.edge.name", edge)]), ...names.flatMap((name) => [text(`kind.${name}`), text("overview.chance")]), text("overview.stands")],
    rows: heads.map((which) => {
      const found = standsOut(kinds, which);
      const scores = kinds ? scoresOf(kinds, which).flatMap((each) => [score(each.score), score(each.chance)]) : [];
      return [selectionName(which), ...(source === null ? [] : [percentOf(page.shareIn(which, source), 2)]), ...scores, found ? text(`kind.${found.kind}`) : ""];
    }),
  };
}

/**
 * Returns all thumbnails with their names and kinds, for a file.
 * @param {Overview} overview
 * @returns {SVGSVGElement}
 */
function lonePicture(overview) {
  const { page, thumbnails, order, heads, source } = overview;
  const { attention } = page;
  const place = placeOf(overview);
  const [side, wide, high] = [72, 88, 112];
  const byLayer = order === "layer";
  const beside = byLayer ? attention.heads : Math.min(attention.layers * attention.heads, 12);
  const left = byLayer ? 70 : 6;
  const parts = heads.map((which, at) => {
    const canvas = thumbnails.of(which, side);
    const found = standsOut(attention.kinds, which);
    const cell = side / Math.max(canvas.width, canvas.height);
    const [across, down] = [canvas.width * cell, canvas.height * cell];
    const box = (/** @type {number} */ x, /** @type {number} */ width) => svg("rect", { x: x * across - 1.5, y: place.top * down - 1.5, width: width * across + 3, height: place.high * down + 3, fill: "none", stroke: "var(--head-1)", "stroke-width": 2 });
    const transform = `translate(${left + (at % beside) * wide} ${6 + Math.floor(at / beside) * high})`;
    return svg(
      "g",
      { transform },
      svg("rect", { width: across, height: down, fill: "var(--panel)" }),
      svg("image", { href: canvas.toDataURL(), width: across, height: down, preserveAspectRatio: "none", "image-rendering": "pixelated" }),
      place.left === null ? box(0, 1) : box(place.left, place.wide),
      svg("text", { y: side + 14, fill: "var(--ink)", "font-size": 12 }, source === null ? selectionName(which) : `${selectionName(which)} · ${percent(page.shareIn(which, source))}`),
      found && svg("text", { y: side + 27, fill: isIdleKind(found.kind) ? "var(--quiet)" : "var(--ink)", "font-size": 10.5 }, `${text(`kind.${found.kind}`)} ${percentOf(found.score, 0)}`),
    );
  });
  const layers = byLayer ? [...Array(attention.layers).keys()].map((layer) => svg("text", { x: 6, y: 6 + layer * high + side / 2, fill: "var(--quiet)", "font-size": 12 }, text("heads.short", { layer }))) : [];
  const size = [left + beside * wide, 6 + Math.ceil(heads.length / beside) * high];
  return svg("svg", { viewBox: `0 0 ${size.join(" ")}`, width: size[0], height: size[1], "font-family": "sans-serif" }, ...layers, ...parts);
}
