// @ts-check
// The view of layers: what the model would have said after each layer (logit lens), for the locked row.

import { predictedRow } from "./distribution.js";
import { element, fill, svg } from "./dom.js";
import { isolated, number, percent, percentOf, text } from "./format.js";
import { temperatureNote, titleOf } from "./next.js";
import { tableBehind } from "./table.js";
import { explanation } from "./toolbar.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {{name: string, tokens: {label: string, probability: number, final: boolean}[], probability: number, rank: number}} LensRow */

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 220, 88, 24, 14, 58]; // of the plot, in its own units

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void, picture: () => SVGSVGElement}}
 */
export function createLayers(page) {
  const title = element("h2");
  const heading = element("div", { class: "heading" });
  const holder = element("div");
  const table = tableBehind(() => tableOf(page));
  const whole = element("div", { class: "layers" }, heading, holder, table.element);
  const update = (/** @type {Set<string>} */ changed) => {
    if (!["all", "row", "row2", "part", "words", "language", "temperature"].some((name) => changed.has(name))) return;
    const rows = lensRows(page);
    table.element.hidden = heading.hidden = !rows.length;
    title.textContent = text("layers.title", { question: titleOf(page) });
    if (changed.has("all") || changed.has("language")) fill(heading, title, ...explanation("view.layers", "help.layers"));
    fill(holder, ...(rows.length ? shown(page, rows) : [element("p", {}, text(!page.doc.predictions ? "layers.none" : page.doc.predictions.lens ? "next.missing" : "cut.measuring"))]));
    table.update();
  };
  return { element: whole, update, picture: () => plot(page, lensRows(page)) };
}

/**
 * Returns what each layer would have said, from the embedding to the last layer.
 * @param {Page} page
 * @returns {LensRow[]}
 */
function lensRows(page) {
  const { predictions, vocabulary } = page.doc;
  const row = predictedRow(page);
  const lens = predictions?.lens;
  if (!lens || row === null) return [];
  const at = row - predictions.rows[0];
  const [, states, count] = lens.ids.shape;
  const final = predictions.ids.at(at, 0);
  return [...Array(states).keys()].map((state) => ({
    name: state ? text("layers.layer", { layer: state - 1 }) : text("layers.embedding"),
    tokens: [...Array(count).keys()].map((place) => {
      const id = lens.ids.at(at, state, place);
      return { label: vocabulary[id] ?? `#${id}`, probability: lens.probabilities.at(at, state, place), final: id === final };
    }),
    probability: lens.target.at(at, state),
    rank: lens.rank.at(at, state),
  }));
}

/**
 * The label of the token that the whole model predicts.
 * @param {LensRow[]} rows
 */
function finalToken(rows) {
  return rows[rows.length - 1].tokens[0].label;
}

/**
 * @param {Page} page
 * @param {LensRow[]} rows
 * @returns {(Node | null)[]}
 */
function shown(page, rows) {
  const token = finalToken(rows);
  const cells = (/** @type {LensRow} */ { tokens }) =>
    tokens.map(({ label, probability, final }) => {
      const cell = element("td", { class: final ? "final" : "" }, element("bdi", { class: "token-name" }, label), element("span", { class: "share" }, percent(probability)));
      cell.style.setProperty("--share", String(probability));
      return cell;
    });
  const grid = element(
    "table",
    { class: "lens", "aria-label": text("layers.about") },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, text("layers.after")), element("th", { scope: "col" }, `P(${isolated(token)})`), element("th", { scope: "col" }, text("layers.rank")), element("th", { scope: "col", class: "says", colspan: rows[0].tokens.length }, text("layers.says")))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, element("th", { scope: "row" }, row.name), element("td", { class: "figure" }, percent(row.probability)), element("td", { class: "figure" }, number(row.rank, 6)), ...cells(row)))),
  );
  return [
    element("p", { class: "note" }, text("layers.about")),
    temperatureNote(),
    element("div", { class: "lens-scroll", tabindex: "0", role: "group", "aria-label": text("view.layers") }, grid),
    element("p", { class: "note" }, text("layers.plot", { token })),
    plot(page, rows),
    element("p", { class: "note" }, text("layers.note")),
  ];
}

/**
 * Draws the probability of the final prediction after each layer, with its rank.
 * @param {Page} page
 * @param {LensRow[]} rows
 * @returns {SVGSVGElement}
 */
function plot(page, rows) {
  const last = Math.max(rows.length - 1, 1);
  const x = (/** @type {number} */ at) => LEFT + (at / last) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const words = (/** @type {number} */ across, /** @type {number} */ down, /** @type {string} */ shown, /** @type {string} */ anchor = "middle") =>
    svg("text", { x: across, y: down, "text-anchor": anchor, fill: "var(--quiet)", "font-size": 12 }, shown);
  const every = Math.ceil(rows.length / 13); // a label for each layer, unless there are too many
  const named = rows.map((row, at) => ({ ...row, at })).filter(({ at }) => at % every === 0 || at === last);
  const label = text("layers.plot", { token: rows.length ? finalToken(rows) : "" });
  return svg(
    "svg",
    { class: "lens-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label, "font-family": "sans-serif" },
    ...[0, 0.5, 1].map((share) => svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share), stroke: "var(--edge)" })),
    ...[0, 0.5, 1].map((share) => words(LEFT - 8, y(share) + 4, percentOf(share, 0), "end")),
    svg("polyline", { points: rows.map(({ probability }, at) => `${x(at)},${y(probability)}`).join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 2.5 }),
    ...rows.map(({ name, probability, rank }, at) => svg("circle", { cx: x(at), cy: y(probability), r: 4.5, fill: "var(--accent)" }, svg("title", {}, `${name}: ${percent(probability)}, ${text("layers.rank")} ${number(rank, 6)}`))),
    ...named.map(({ at }) => words(x(at), HEIGHT - BOTTOM + 22, at ? String(at - 1) : text("layers.start"))),
    ...named.map(({ at, rank }) => words(x(at), HEIGHT - BOTTOM + 42, `#${number(rank, 6)}`)),
    words(LEFT - 36, HEIGHT - BOTTOM + 42, text("layers.rank"), "end"),
  );
}

/** @param {Page} page */
function tableOf(page) {
  const rows = lensRows(page);
  if (!rows.length) return { caption: "", head: [], rows: [] };
  const places = rows[0].tokens.map((_, place) => [text("layers.place", { place: place + 1 }), text("next.probability")]);
  return {
    caption: text("layers.title", { question: titleOf(page) }),
    head: [text("layers.after"), `P(${isolated(finalToken(rows))})`, text("layers.rank"), ...places.flat()],
    rows: rows.map(({ name, probability, rank, tokens }) => [name, percentOf(probability, 4), number(rank, 6), ...tokens.flatMap((each) => [each.label, percentOf(each.probability, 4)])]),
  };
}
