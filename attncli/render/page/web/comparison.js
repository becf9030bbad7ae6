// @ts-check
// Two texts side by side: how alike the streams of one word are, layer by layer, and which tokens pull them apart.

import { element, fill, svg } from "./dom.js";
import { fixed, text, unitName } from "./format.js";
import { tableBehind } from "./table.js";

/** @typedef {import("./data.js").Payload} Payload */
/** @typedef {import("./data.js").NdArray} NdArray */
/** @typedef {{words: {first: number, at: number, pulls: NdArray | null}[], cosines: NdArray, others: NdArray | null, layer: number, distance: number, feed_forward: number | null, embedding: number | null}} Comparison */

const MOST_PULLS = 10;

/**
 * @param {Payload} payload
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void}}
 */
export function createComparison({ documents, comparison }) {
  /** @type {Comparison} */
  const found = comparison;
  const title = element("h2");
  const note = element("p", { class: "note" });
  const layers = element("div");
  const pulls = element("div");
  const cosines = found.cosines.slice();
  const others = found.others?.slice();
  const table = tableBehind(() => ({
    caption: text("comparison.cosines"),
    head: [text("comparison.layer"), text("comparison.word"), ...(others ? [text("comparison.others")] : [])],
    rows: [...cosines].map((cosine, at) => [layerName(at), fixed(cosine, 4), ...(others ? [fixed(others[at], 4)] : [])]),
  }));
  const update = (/** @type {Set<string>} */ changed) => {
    if (!changed.has("all") && !changed.has("language")) return;
    const word = documents[0].attentions[0].columns[found.words[0].at].label;
    fill(title, text("comparison.title", { word }));
    fill(note, text("comparison.note"));
    fill(layers, ...[...cosines].map((cosine, at) => row(layerName(at), cosine, fixed(cosine, 3), others ? text("comparison.beside", { cosine: fixed(others[at], 3) }) : "")));
    fill(pulls, element("h2", {}, text("comparison.pulls", { distance: fixed(found.distance, 2) })), element("p", { class: "note" }, text("comparison.pulls.note")), ...pullRows(documents, found));
    table.update();
  };
  return { element: element("section", { class: "comparison" }, title, note, layers, table.element, pulls), update };
}

/** @param {number} at */
function layerName(at) {
  return at === 0 ? text("comparison.embedding") : text("heads.layer", { layer: at - 1 });
}

/**
 * Returns a bar with its name and number.
 * @param {string} name
 * @param {number} share of the longest bar; negative bars have another color
 * @param {string} figure
 * @param {string} beside
 */
function row(name, share, figure, beside) {
  const width = Math.min(1, Math.abs(share)) * 220;
  return element(
    "div",
    { class: "figure-row" },
    element("code", {}, name),
    svg("svg", { width: 220, height: 12, "aria-hidden": "true" }, svg("rect", { width, height: 12, rx: 2, fill: share < 0 ? "var(--bad)" : "var(--accent)" })),
    element("span", { class: "figure" }, figure),
    element("span", { class: "note" }, beside),
  );
}

/**
 * Returns the largest pulls of both texts, and of the embedding and the feed-forward parts.
 * @param {import("./data.js").Doc[]} documents
 * @param {Comparison} found
 */
function pullRows(documents, found) {
  if (found.embedding === null || found.feed_forward === null) return [element("p", { class: "note" }, text("comparison.no_pulls"))];
  const terms = found.words.flatMap(({ pulls }, at) =>
    [...(pulls?.slice() ?? [])].map((pull, source) => ({ name: `${"AB"[at]} ${unitName({ label: documents[at].attentions[0].columns[source].label, index: source })}`, pull })),
  );
  terms.push({ name: text("comparison.embeddings"), pull: found.embedding }, { name: text("comparison.feed_forward"), pull: found.feed_forward });
  terms.sort((one, other) => Math.abs(other.pull) - Math.abs(one.pull));
  const most = Math.abs(terms[0].pull) || 1;
  const shown = terms.slice(0, MOST_PULLS);
  const rest = terms.slice(MOST_PULLS).reduce((sum, { pull }) => sum + pull, 0);
  if (terms.length > MOST_PULLS) shown.push({ name: text("comparison.rest", { count: terms.length - MOST_PULLS }), pull: rest });
  return shown.map(({ name, pull }) => row(name, pull / most, fixed(pull, 2), ""));
}
