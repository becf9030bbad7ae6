// @ts-check
// All heads at once: a small map of every head, labelled by the pattern that it follows.

import { element, fill, keepFocus, roving, svg } from "./dom.js";
import { percent, percentOf, text } from "./format.js";
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
    this.table = tableBehind(() => tableOf(page));
    this.element = element("div", {}, this.controls, this.first, element("div", { class: "overview-scroll", tabindex: "-1" }, this.grid), this.note, this.table.element);
    /** @type {(() => void)[]} */
    this.waiting = [];
    const resized = () => this.element.clientWidth && this.element.clientWidth !== this.width && build(this);
    new ResizeObserver(() => requestAnimationFrame(resized)).observe(this.element);
  }

  /** The kind by which heads are sorted, or "layer". */
  get order() {
    return this.page.attention.kinds?.names.includes(state.sort) ? state.sort : "layer";
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
    if (has("all", "language", "part", "measure", "idle", "common", "sort")) build(overview);
    else if (has("heads")) markChosen(overview);
    if (has("all", "language", "part", "sort")) overview.table.update();
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
  const orders = ["layer", ...(kinds ? kinds.names : [])];
  fill(controls, labelled("sort", select("sort", orders.map((name) => [name, text(name === "layer" ? "sort.layer" : `kind.${name}`)])), "help.sort"));
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
  const buttons = sortedHeads(attention, overview.order).map((each) => button(overview, each, side));
  const names = [...Array(attention.layers).keys()].map((layer) => element("span", { class: "overview-layer" }, text("heads.short", { layer })));
  grid.setAttribute("aria-label", text("overview"));
  grid.classList.toggle("by-layer", byLayer);
  grid.style.gridTemplateColumns = byLayer ? `${LAYER - 6}px repeat(${attention.heads}, max-content)` : "";
  keepFocus(grid, () => fill(grid, ...buttons.flatMap((made, at) => (byLayer && at % attention.heads === 0 ? [names[at / attention.heads], made] : [made]))));
  markChosen(overview);
  roving(grid, "button", byLayer ? attention.heads : 0);
  note.textContent = noteOf(overview);
  drawWaiting(overview, overview.waiting);
}

/**
 * Says what the thumbnails show, and how the kinds were measured.
 * @param {Overview} overview
 */
function noteOf({ page, thumbnails }) {
  const { thumbnails: pooled, kinds } = page.attention;
  const shown = pooled ? text("overview.pooled", { pool: pooled.pool }) : text("overview.shown", { measure: text(`measure.${thumbnails.measure}`) });
  return kinds ? `${shown} ${text("overview.measured", { sequences: kinds.sequences, length: kinds.length })}` : shown;
}

/**
 * Returns the button of a head: its thumbnail, its name, and the kind at which it stands out.
 * @param {Overview} overview
 * @param {Head} which
 * @param {number} side
 */
function button(overview, which, side) {
  const { page } = overview;
  const name = selectionName(which);
  const found = standsOut(page.attention.kinds, which);
  const holder = element("span", { class: "thumb-picture" });
  holder.style.width = holder.style.height = `${side}px`;
  overview.waiting.push(() => fill(holder, sized(overview.thumbnails.of(which, side * Math.max(1, Math.round(window.devicePixelRatio || 1))), side)));
  const badge = element("span", { class: `thumb-kind${found && !isIdleKind(found.kind) ? " busy" : ""}` }, found ? `${text(`kind.${found.kind}`)} ${percentOf(found.score, 0)}` : "");
  badge.style.width = `${side}px`;
  const about = `${headName(name)}${found ? `: ${text("overview.kind", { kind: text(`kind.${found.kind}`), score: percent(found.score), chance: percent(found.chance) })}` : ""}`;
  const onclick = (/** @type {MouseEvent} */ event) => enlarge(page, name, event.shiftKey || event.ctrlKey || event.metaKey);
  return element("button", { type: "button", class: "thumb", "data-head": name, "aria-label": about, title: about, onclick }, holder, element("span", { class: "thumb-name" }, name), badge);
}

/**
 * Sets the size of a thumbnail on the page: a whole number of pixels for each cell, if cells are large.
 * @param {HTMLCanvasElement} canvas
 * @param {number} side
 */
function sized(canvas, side) {
  const cells = Math.max(canvas.width, canvas.height);
  const cell = 3 * cells <= side ? Math.floor(side / cells) : side / cells;
  canvas.style.width = `${canvas.width * cell}px`;
  canvas.style.height = `${canvas.height * cell}px`;
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

/** @param {Page} page */
function tableOf({ attention }) {
  const { kinds } = attention;
  const score = (/** @type {number} */ value) => (Number.isNaN(value) ? "–" : percentOf(value, 1));
  const names = kinds ? kinds.names : [];
  return {
    caption: text("overview.table"),
    head: [text("overview.head"), ...names.flatMap((name) => [text(`kind.${name}`), text("overview.chance")]), text("overview.stands")],
    rows: sortedHeads(attention, state.sort).map((which) => {
      const found = standsOut(kinds, which);
      const scores = kinds ? scoresOf(kinds, which).flatMap((each) => [score(each.score), score(each.chance)]) : [];
      return [selectionName(which), ...scores, found ? text(`kind.${found.kind}`) : ""];
    }),
  };
}

/**
 * Returns all thumbnails with their names and kinds, for a file.
 * @param {Overview} overview
 * @returns {SVGSVGElement}
 */
function lonePicture({ page, thumbnails, order }) {
  const { attention } = page;
  const [side, wide, high] = [72, 88, 112];
  const byLayer = order === "layer";
  const beside = byLayer ? attention.heads : Math.min(attention.layers * attention.heads, 12);
  const left = byLayer ? 70 : 6;
  const heads = sortedHeads(attention, order);
  const parts = heads.map((which, at) => {
    const canvas = thumbnails.of(which, side);
    const found = standsOut(attention.kinds, which);
    const cell = side / Math.max(canvas.width, canvas.height);
    const place = `translate(${left + (at % beside) * wide} ${6 + Math.floor(at / beside) * high})`;
    return svg(
      "g",
      { transform: place },
      svg("rect", { width: canvas.width * cell, height: canvas.height * cell, fill: "var(--panel)" }),
      svg("image", { href: canvas.toDataURL(), width: canvas.width * cell, height: canvas.height * cell, preserveAspectRatio: "none", "image-rendering": "pixelated" }),
      svg("text", { y: side + 14, fill: "var(--ink)", "font-size": 12 }, selectionName(which)),
      found && svg("text", { y: side + 27, fill: isIdleKind(found.kind) ? "var(--quiet)" : "var(--ink)", "font-size": 10.5 }, `${text(`kind.${found.kind}`)} ${percentOf(found.score, 0)}`),
    );
  });
  const layers = byLayer ? [...Array(attention.layers).keys()].map((layer) => svg("text", { x: 6, y: 6 + layer * high + side / 2, fill: "var(--quiet)", "font-size": 12 }, text("heads.short", { layer }))) : [];
  const size = [left + beside * wide, 6 + Math.ceil(heads.length / beside) * high];
  return svg("svg", { viewBox: `0 0 ${size.join(" ")}`, width: size[0], height: size[1], "font-family": "sans-serif" }, ...layers, ...parts);
}
