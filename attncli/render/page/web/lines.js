// @ts-check
// The head view: queries on the left, sources on the right, and a curve for every weight.

import { element, fill, fillByKey, roving, setAttributes, svg, write } from "./dom.js";
import { isolated, number, percent, percentOf, text, unitName } from "./format.js";
import { hiddenColumns, openInPicture } from "./heat.js";
import { keyOf, largestOf, reachOf, unitOf } from "./measure.js";
import { state } from "./state.js";
import { tableBehind } from "./table.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./page.js").Chosen} Chosen */
/** @typedef {import("./measure.js").Unit} Unit */
/** @typedef {import("./measure.js").Matrix} Matrix */
/** @typedef {{row: number, column: number, share: number, strength: number, color: string, at: number}} Line */

const NARROW = matchMedia("(max-width: 600px)");
const MOST_LINES = 1500; // of rows that are not in focus
const LEVELS_OF_LINES = 24; // strengths that are told apart in these rows
const LONG = 96; // tokens: a longer text is drawn more densely
const MOST_FIGURES = 4; // heads whose shares are written beside the sources
const FIGURE = 56; // pixels of the shares of a further head in a saved picture
const LEAST = 1e-9; // a share that is stored as 0 may be any number below the rounding error
const NEAR = 9; // pixels between the pointer and a line
const WEAKEST = 0.004; // of the scale: weaker lines of the row in focus are not drawn, but their share is written

/**
 * Returns the height of a token in pixels.
 * @param {number} count the number of tokens
 */
function heightOf(count) {
  return count > LONG ? 20 : 26;
}

/** Returns the distance between the two columns of tokens in pixels. */
function width() {
  return NARROW.matches ? (figured > 2 ? 56 : 90) : little ? 170 : 260;
}
let little = false; // whether a window or two texts side by side leave little room
let figured = 1; // heads whose shares are written

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void, picture: () => SVGSVGElement}}
 */
export function createLines(page) {
  const left = element("div", { class: "lines-side rows", role: "group" });
  const right = element("div", { class: "lines-side columns", role: "group" });
  const picture = svg("svg", { class: "lines-picture", "aria-hidden": "true" });
  const scroller = element("div", { class: "lines", tabindex: "-1" }, left, picture, right);
  const table = tableBehind(() => tableOf(page));
  const legend = element("p", { class: "lines-legend" });
  const whole = element("div", {}, legend, scroller, table.element);
  touch(page, picture);
  let locked = -1;
  const layout = ["all", "words", "part", "heads", "measure", "idle", "common", "language"];
  const update = (/** @type {Set<string>} */ changed) => {
    if (layout.some((name) => changed.has(name))) {
      build(page, left, right);
      drawAll(page, picture);
    }
    // Where a person has scrolled to stays, unless another row is locked. The layout is known after all changes.
    if (locked !== page.row || changed.has("view")) queueMicrotask(() => intoView(page, scroller));
    locked = page.row;
    drawRow(page, picture, left, right);
    explainFigures(page, legend);
    table.update();
  };
  NARROW.addEventListener("change", () => update(new Set(["all"])));
  return { element: whole, update, picture: () => lonePicture(page) };
}

/**
 * Builds the tokens on both sides.
 * @param {Page} page
 * @param {HTMLElement} left
 * @param {HTMLElement} right
 */
function build(page, left, right) {
  const { rows, columns } = page.matrix(page.pictured[0].selection);
  const height = `${heightOf(Math.max(rows.length, columns.length))}px`;
  for (const side of [left, right]) side.style.setProperty("--line", height);
  for (const side of [left, right]) side.classList.toggle("long", Math.max(rows.length, columns.length) > LONG);
  little = left.closest(".two") !== null || innerWidth - (innerWidth > 900 ? 444 : 40) < 690;
  const shown = figures(page);
  figured = shown.length;
  right.classList.toggle("several", figured > 1);
  const ratios = page.measure === "rollout";
  left.style.setProperty("--letters", String(widest(rows)));
  right.style.setProperty("--letters", String(widest(columns)));
  right.style.setProperty("--figures", `${shown.length * (ratios ? 7 : 4.2)}em`);
  right.classList.toggle("ratios", ratios);
  left.setAttribute("aria-label", text("lines.rows"));
  right.setAttribute("aria-label", text("lines.columns"));
  fillByKey(left, rows.map(keyOf), (at) => {
    const { start, stop, index, label } = rows[at];
    return element("button", { type: "button", class: "line-token", "aria-pressed": "false", "data-start": start, ...page.listeners(stop - 1) }, element("span", { class: "index" }, String(index)), element("bdi", {}, label));
  });
  // A masked source stays in the order of the arrow keys, so it is not disabled.
  const choose = (/** @type {MouseEvent} */ { currentTarget }) => {
    const button = /** @type {Element} */ (currentTarget);
    if (button.ariaDisabled !== "true") chooseEdge(page, page.matrix(page.pictured[0].selection).columns[[...right.children].indexOf(button)]);
  };
  const figure = (/** @type {Chosen} */ { color }) => {
    const made = element("span", { class: "share" });
    if (shown.length > 1) made.style.color = color;
    return made;
  };
  const colors = shown.map(({ color }) => color).join();
  fillByKey(right, columns.map((column) => `${colors} ${keyOf(column)}`), (at) => {
    const { start, label } = columns[at];
    return element("button", { type: "button", class: "line-token", "aria-pressed": "false", "data-start": start, onclick: choose }, element("bdi", { class: "label" }, label), element("span", { class: "bar" }), ...shown.map(figure));
  });
  roving(left, "button");
  roving(right, "button");
}

/**
 * Returns the width of the longest label in characters of a fixed-width font; an ideograph is two characters wide.
 * @param {Unit[]} units
 */
function widest(units) {
  return Math.min(40, Math.max(4, ...units.map(({ label }) => label.replace(/[\u2e80-\uffff]/g, "xx").length)));
}

/**
 * Returns the selections whose shares are written beside the sources.
 * @param {Page} page
 */
function figures(page) {
  return page.pictured.slice(0, MOST_FIGURES);
}

/**
 * Says what the numbers beside the sources are, with the name of each head in its color.
 * @param {Page} page
 * @param {HTMLElement} legend
 */
function explainFigures(page, legend) {
  const row = page.rows[page.shownUnit];
  const { start } = page.doc;
  const names = figures(page).map(({ name, color }) => {
    const shown = element("b", {}, headName(name));
    shown.style.color = color;
    return shown;
  });
  const busiest = !legend.closest(".two") && page.shown === start.row && page.attention.part === start.part && start.part !== "cross" && page.chosen.length === 1 && page.chosen[0].name === start.heads[0].join(".");
  fill(
    legend,
    text(`lines.legend.${page.measure}`, { row: unitName(row) }),
    ": ",
    ...names.flatMap((name, at) => (at ? [", ", name] : [name])),
    page.measure !== "rollout" && busiest && ` (${text("lines.busiest")})`,
  );
}

/**
 * Writes a share; rollout is followed by its ratio to the rollout of uniform attention.
 * @param {Matrix} matrix
 * @param {number} at
 */
function figureOf({ values, even }, at) {
  const share = percent(Math.max(values[at], LEAST));
  return even?.[at] ? `${share} ×${number(values[at] / even[at], 2)}` : share;
}

/**
 * Chooses the edge from the locked row to a source; the panel of cuts shows it.
 * @param {Page} page
 * @param {Unit} column
 */
function chooseEdge(page, column) {
  page.choose(column.stop - 1, { cut: "edge" });
}

/**
 * Returns the lines of some rows, the strongest first. A line's strength is its share of the scale: the largest share
 * of its head, or of all selected heads.
 * @param {Page} page
 * @param {number | null} only the row, by its position; null for all rows
 * @returns {Line[]}
 */
function linesOf(page, only) {
  const { pictured: chosen, attention } = page;
  const matrices = chosen.map(({ selection }) => page.matrix(selection));
  const hidden = hiddenColumns(page, matrices[0].columns);
  const largest = matrices.map((matrix) => largestOf(matrix, hidden));
  const common = Math.max(...largest);
  const lines = chosen.flatMap(({ color }, at) => {
    const { rows, columns, values } = matrices[at];
    /** @type {Line[]} */
    const found = [];
    const range = only === null ? rows.keys() : [only];
    for (const from of range) {
      const reach = reachOf(attention, rows[from], columns);
      for (let to = 0; to < reach; to++) {
        const share = values[from * columns.length + to];
        if (!hidden[to] && share > 0) found.push({ row: from, column: to, share, strength: share / (state.common ? common : largest[at]), color, at });
      }
    }
    return found;
  });
  return lines.sort((one, other) => other.strength - one.strength);
}

/**
 * Returns the path of a line.
 * @param {Line} line
 * @param {number} height
 * @param {number} count the number of selected heads
 */
function pathOf({ row, column, at }, height, count) {
  const shift = (at - (count - 1) / 2) * Math.min(3, height / (count + 2));
  const from = (row + 0.5) * height + shift;
  const to = (column + 0.5) * height + shift;
  const across = width();
  const third = across / 2.5;
  return `M0 ${from}C${third} ${from} ${across - third} ${to} ${across} ${to}`;
}

/**
 * Returns the lines of the row that is shown which are strong enough to be seen.
 * @param {Page} page
 */
function strongest(page) {
  return linesOf(page, page.shownUnit).filter(({ strength }) => strength >= WEAKEST);
}

/**
 * Draws the lines of all rows, faintly, in a group of its own.
 * @param {Page} page
 * @param {SVGSVGElement} picture
 */
function drawAll(page, picture) {
  const { rows, columns } = page.matrix(page.pictured[0].selection);
  const most = Math.max(rows.length, columns.length);
  const height = heightOf(most);
  const lines = linesOf(page, null).filter(({ strength }) => strength > 0.02);
  const count = page.pictured.length;
  const faint = svg("g", { class: "faint" });
  // Lines of one color and about the same strength are one path, because a browser needs long for hundreds of them.
  /** @type {Map<string, string[]>} */
  const alike = new Map();
  for (const line of lines.slice(0, MOST_LINES)) {
    const key = `${line.color} ${Math.ceil(line.strength * LEVELS_OF_LINES) / LEVELS_OF_LINES}`;
    alike.get(key)?.push(pathOf(line, height, count)) ?? alike.set(key, [pathOf(line, height, count)]);
  }
  for (const [key, paths] of alike) {
    const [color, strength] = key.split(" ");
    faint.append(svg("path", { d: paths.join(""), stroke: color, "stroke-width": 0.5 + 2 * Number(strength), "stroke-opacity": (0.1 + 0.4 * Number(strength)).toFixed(3) }));
  }
  picture.setAttribute("viewBox", `0 0 ${width()} ${most * height}`);
  picture.setAttribute("width", String(width()));
  picture.setAttribute("height", String(most * height));
  picture.replaceChildren(faint, svg("g", { class: "strong" }));
}

/**
 * Draws the lines of the row that is shown, and its shares beside the sources.
 * @param {Page} page
 * @param {SVGSVGElement} picture
 * @param {HTMLElement} left
 * @param {HTMLElement} right
 */
function drawRow(page, picture, left, right) {
  const { shownUnit, pictured: chosen } = page;
  const { rows, columns, values } = page.matrix(chosen[0].selection);
  const height = heightOf(Math.max(rows.length, columns.length));
  const strong = /** @type {SVGGElement} */ (picture.querySelector(".strong"));
  picture.classList.toggle("isolated", state.hover !== null && state.hover[0] === page.index);
  const lines = strongest(page).reverse();
  while (strong.children.length < lines.length) strong.append(svg("path"));
  [...strong.children].forEach((path, at) => {
    const line = lines[at];
    if (!line) return path.setAttribute("d", "");
    if (path.getAttribute("stroke") !== line.color) path.setAttribute("stroke", line.color);
    setAttributes(path, { d: pathOf(line, height, chosen.length), "stroke-width": (1 + 6 * line.strength).toFixed(2), "stroke-opacity": (0.25 + 0.75 * line.strength).toFixed(3) });
  });
  const locked = unitOf(rows, page.row);
  mark(left, "shown", shownUnit);
  markPressed(left, locked);
  markPressed(right, page.column === null ? -1 : unitOf(columns, page.column));
  const offset = shownUnit * columns.length;
  const [start, stop] = openInPicture(page, chosen[0].selection, rows[shownUnit], columns);
  const matrices = figures(page).map(({ selection }) => page.matrix(selection));
  [...right.children].forEach((button, at) => {
    const masked = at < start || at >= stop;
    const share = values[offset + at];
    const [label, bar, ...cells] = /** @type {HTMLElement[]} */ ([...button.children]);
    if (label.classList.contains("masked") !== masked) {
      label.classList.toggle("masked", masked);
      button.ariaDisabled = String(masked);
    }
    cells.forEach((cell, which) => write(cell, masked ? "" : figureOf(matrices[which], offset + at)));
    bar.style.backgroundSize = `${masked ? 0 : (100 * share).toFixed(1)}% 100%`;
  });
}

/**
 * Lets the pointer touch the lines of the row that is shown: the nearest one names itself, and a click chooses its edge.
 * @param {Page} page
 * @param {SVGSVGElement} picture
 */
function touch(page, picture) {
  const title = svg("title");
  picture.addEventListener("pointermove", (event) => {
    const line = nearest(page, picture, event);
    const { rows, columns } = page.matrix(page.pictured[0].selection);
    picture.classList.toggle("near", line !== null);
    fill(title, line && `${isolated(rows[line.row].label)} → ${isolated(columns[line.column].label)}: ${percent(line.share)}`);
    if (line && !title.isConnected) picture.append(title);
    if (!line) title.remove();
  });
  picture.addEventListener("click", (event) => {
    const line = nearest(page, picture, event);
    if (line) chooseEdge(page, page.matrix(page.pictured[0].selection).columns[line.column]);
  });
}

/**
 * Returns the line of the row that is shown which is nearest to the pointer; null if none is within a few pixels.
 * @param {Page} page
 * @param {SVGSVGElement} picture
 * @param {MouseEvent} event
 * @returns {Line | null}
 */
function nearest(page, picture, event) {
  const { left, top, width: across } = picture.getBoundingClientRect();
  const { rows, columns } = page.matrix(page.pictured[0].selection);
  const height = heightOf(Math.max(rows.length, columns.length));
  const share = (event.clientX - left) / across;
  // The curve is a cubic Bezier curve whose height rises with 3 t^2 - 2 t^3, almost at the share t of its width.
  const rise = share * share * (3 - 2 * share);
  const distance = (/** @type {Line} */ { row, column }) => Math.abs((row + 0.5 + (column - row) * rise) * height - (event.clientY - top));
  const [best] = strongest(page).sort((one, other) => distance(one) - distance(other));
  return best && distance(best) < NEAR ? best : null;
}

/**
 * Gives one child of a side a class, and takes it from the others.
 * @param {HTMLElement} side
 * @param {string} name
 * @param {number} at
 */
function mark(side, name, at) {
  for (const other of side.querySelectorAll(`.${name}`)) if (other !== side.children[at]) other.classList.remove(name);
  side.children[at]?.classList.add(name);
}

/**
 * Marks one child of a side as pressed.
 * @param {HTMLElement} side
 * @param {number} at
 */
function markPressed(side, at) {
  for (const other of side.querySelectorAll('[aria-pressed="true"]')) if (other !== side.children[at]) other.ariaPressed = "false";
  if (side.children[at]?.ariaPressed === "false") side.children[at].ariaPressed = "true";
}

/**
 * Scrolls to the locked row, if it is outside the visible part.
 * @param {Page} page
 * @param {HTMLElement} scroller
 */
function intoView(page, scroller) {
  const { rows, columns } = page.matrix(page.pictured[0].selection);
  const height = heightOf(Math.max(rows.length, columns.length));
  const top = page.shownUnit * height;
  if (top < scroller.scrollTop || top > scroller.scrollTop + scroller.clientHeight - height) {
    scroller.scrollTop = Math.max(0, top - scroller.clientHeight / 2);
  }
}

/** @param {Page} page */
function tableOf(page) {
  const matrices = page.pictured.map(({ selection }) => page.matrix(selection));
  const { rows, columns } = matrices[0];
  const at = page.shownUnit;
  const reach = reachOf(page.attention, rows[at], columns);
  return {
    caption: text("lines.table", { row: unitName(rows[at]), measure: text(`measure.${page.measure}`) }),
    head: [text("lines.source"), ...page.pictured.map(({ name }) => headName(name))],
    rows: columns.slice(0, reach).map((column, to) => [
      unitName(column),
      ...matrices.map(({ values }) => percentOf(values[at * columns.length + to], 3)),
    ]),
  };
}

/**
 * Names a selection: "head 2.3", "layer 2", "all heads", "rollout".
 * @param {string} name
 */
export function headName(name) {
  if (name === "rollout") return text("measure.rollout");
  if (name === "all") return text("heads.all");
  return name.startsWith("L") ? text("heads.layer", { layer: name.slice(1) }) : text("heads.head", { head: name });
}

/**
 * Returns the picture with its tokens, for a file.
 * @param {Page} page
 * @returns {SVGSVGElement}
 */
function lonePicture(page) {
  const { rows, columns } = page.matrix(page.pictured[0].selection);
  const height = heightOf(Math.max(rows.length, columns.length));
  const side = 150;
  const across = width();
  const total = Math.max(rows.length, columns.length) * height;
  const chosen = page.column === null ? -1 : unitOf(columns, page.column);
  const label = (/** @type {Unit} */ unit, /** @type {number} */ at, /** @type {boolean} */ isRow) =>
    svg("text", { x: isRow ? side - 8 : side + across + 8, y: (at + 0.5) * height + 4, "text-anchor": isRow ? "end" : "start", fill: "var(--ink)", "font-weight": at === (isRow ? page.shownUnit : chosen) ? "bold" : "normal" }, isolated(unit.label));
  const named = figures(page); // with several heads, each has a column of shares in its color, under its name
  const top = named.length > 1 ? 20 : 0;
  const right = 2 * side + across + FIGURE * (named.length - 1);
  const shares = named.flatMap(({ name, selection, color }, which) => {
    const { values } = page.matrix(selection);
    const written = (/** @type {number} */ y, /** @type {string} */ shown) => svg("text", { x: 2 * side + across - 8 + FIGURE * which, y, "text-anchor": "end", fill: top ? color : "var(--quiet)" }, shown);
    const listed = columns.map((_, to) => values[page.shownUnit * columns.length + to]);
    return [top > 0 && written(-6, name), ...listed.map((share, to) => share > 0 && written((to + 0.5) * height + 4, percent(share)))];
  });
  const line = (/** @type {Line} */ each, /** @type {number} */ width, /** @type {number} */ opacity) =>
    svg("path", { d: pathOf(each, height, page.pictured.length), stroke: each.color, "stroke-width": width, "stroke-opacity": opacity.toFixed(3), fill: "none" });
  const faint = linesOf(page, null).filter(({ row, strength }) => row !== page.shownUnit && strength > 0.02).slice(0, MOST_LINES).map((each) => line(each, 0.5 + 2 * each.strength, 0.05 + 0.2 * each.strength));
  const strong = strongest(page).map((each) => line(each, 1 + 6 * each.strength, 0.25 + 0.75 * each.strength));
  return svg(
    "svg",
    { viewBox: `0 0 ${right} ${total + top}`, width: right, height: total + top, "font-family": "sans-serif", "font-size": 14 },
    svg(
      "g",
      { transform: `translate(0 ${top})` },
      svg("g", { transform: `translate(${side} 0)` }, ...faint, ...strong),
      chosen >= 0 && svg("rect", { x: side + across + 1, y: chosen * height + 1, width: side - 2, height: height - 2, rx: 4, fill: "none", stroke: "var(--accent)", "stroke-width": 2 }),
      ...rows.map((row, at) => label(row, at, true)),
      ...columns.map((column, at) => label(column, at, false)),
      ...shares,
    ),
  );
}
