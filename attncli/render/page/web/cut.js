// @ts-check
// The panel "Cut": what is left of a prediction if an edge, a row, a source or a head of attention is cut.

import { distributionOf, PLAIN, predictedRow } from "./distribution.js";
import { element, fill, fillByKey, keepFocus, rebuild, roving } from "./dom.js";
import { isolated, number, percent, percentOf, percents, text, unitName } from "./format.js";
import { headName } from "./lines.js";
import { isMasked, selectionName } from "./measure.js";
import { temperatureNote } from "./next.js";
import { change, state } from "./state.js";
import { tableBehind } from "./table.js";
import { explanation, tick } from "./toolbar.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./data.js").Effect} Effect */
/** @typedef {"edge" | "row" | "column" | "head"} Kind */
/** @typedef {import("./measure.js").Unit} Unit */
/**
 * A cut of tokens. In the live page, it may be of words, and consist of edges. `heads`: null stands for all.
 * @typedef {{kind: Kind, row: number, column: number, heads: [number, number][] | null, measured: number, edges?: [number, number][]}} Cut
 */
/** @typedef {{id: number, label: string, before: number, after: number}} Candidate */
/** @typedef {{id: number, label: string, probability: number}} Chance */
/** @typedef {{candidates: Candidate[], after: Chance[], error: number}} Result  the error is the greatest rounding error */
/** @typedef {{row: string, column: string}} Names  of the tokens or words of a cut */
/** @typedef {{name: string, share: number, before: number, after: number}} Ranked */
/** @typedef {(share: number) => string} Format */
/** @typedef {{label: string, before: number, shown: (format: Format) => string, after: number}} Risen  a token that a cut makes probable */

/** @type {Kind[]} */
const KINDS = ["edge", "row", "column", "head"];
const SHORTEST = 0.1; // the least change of a head for which a bar has the full length
const MOST_RANKED = 6;
const MEASURED = 6; // the most probable tokens, whose probabilities after a cut the server returns
const MOST_EDGES = 10_000; // of one cut

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, brief: HTMLElement, update: (changed: Set<string>) => void}} `brief` is the result in
 *   one line, beside a picture that leaves no room for the panel
 */
export function createCut(page) {
  const title = element("h2");
  const help = element("div", { class: "heading" });
  const heat = element("div");
  const choice = element("div", { class: "cut-choice" });
  const verdict = element("div", { class: "verdict", "aria-live": "polite" });
  const ranking = element("div", { class: "ranking" });
  /** @type {Result | null} */
  let result = null;
  const table = tableBehind(() => tableOf(page, result));
  const whole = element("section", { class: "panel cut" }, help, heat, choice, verdict, ranking, table.element);
  let newest = {}; // stands for the newest update: an effect that an older one has asked for is not shown
  const brief = element("button", { type: "button", class: "brief", hidden: true, onclick: () => whole.scrollIntoView() });
  const showResult = (/** @type {Element[]} */ nodes, /** @type {Result | null} */ found) => {
    result = found;
    whole.classList.remove("stale");
    const named = nodes.map((node) => `${node.textContent} ${node.querySelector('[aria-pressed="true"]')?.getAttribute("data-token")}`);
    keepFocus(verdict, () => fillByKey(verdict, named, (at) => nodes[at])); // what is new is read aloud
    fill(brief, ...[...verdict.children].slice(0, found ? 2 : 0).map((each) => element("span", { class: each.className }, each.textContent, " ")));
    brief.hidden = table.element.hidden = !found;
    table.update();
  };
  const update = (/** @type {Set<string>} */ changed) => {
    if (["all", "temperature", "language"].some((name) => changed.has(name))) fill(heat, temperatureNote());
    if (!["all", "measure", "row", "row2", "column", "column2", "heads", "part", "cut", "everywhere", "words", "token", "language"].some((name) => changed.has(name))) return;
    const own = (newest = {});
    whole.hidden = !page.doc.predictions;
    if (whole.hidden) return;
    title.textContent = text("cut.title");
    rebuild(help, [state.language], () => fill(help, title, ...explanation("cut.title", "help.cut")));
    const cut = chosenCut(page);
    const offered = followable(page, cut);
    const shown = [KINDS.map((kind) => namesOf(page, { kind, edges: page.live })), offered, state.token, page.chosen[0].name, page.attention.part, state.cut, state.everywhere, state.language];
    rebuild(choice, shown, () => keepFocus(choice, () => buildChoice(page, choice, offered)));
    keepFocus(ranking, () => fill(ranking, ...rankingOf(page)));
    const reason = cut && impossible(page, cut);
    if (!cut || reason) return showResult(reason ? [element("p", {}, reason)] : [element("p", { class: "note" }, text(predictedRow(page) === null ? "next.missing" : "cut.hint"))], null);
    const found = effectOf(page, cut);
    if (!(found instanceof Promise)) {
      showResult(found ? verdictOf(page, cut, found) : [missing(page, cut)], found);
      if (["cut", "column", "column2"].some((name) => changed.has(name))) intoView(whole);
      return;
    }
    // While the cut of another text is measured, the effect in the text before stays, dimmed.
    brief.hidden = true;
    if (result && changed.has("all")) whole.classList.add("stale");
    else showResult([element("p", { class: "note" }, text("cut.measuring"))], null);
    found.then(
      (measured) => own === newest && showResult(verdictOf(page, cut, measured), measured),
      (error) => own === newest && error.name !== "AbortError" && showResult([element("p", {}, String(error.message ?? error))], null),
    );
  };
  return { element: whole, brief, update };
}

/**
 * Scrolls the panels to this one, if they scroll beside the picture.
 * @param {HTMLElement} panel
 */
function intoView(panel) {
  const panels = panel.parentElement;
  if (panels && panels.scrollHeight > panels.clientHeight) panels.scrollTop = panel.offsetTop - panels.offsetTop;
}

/**
 * Returns what a cut leaves of the prediction: from the file, otherwise from the server of the live page. Returns null
 * if there is neither.
 * @param {Page} page
 * @param {Cut} cut
 * @returns {Result | Promise<Result> | null}
 */
function effectOf(page, cut) {
  const stored = storedEffect(page, cut);
  if (stored || !page.live) return stored;
  const { row, column, heads, measured, edges } = cut;
  const kind = edges ? "edge" : cut.kind;
  const place = { edge: { edges: edges ?? [[row, column]] }, row: { row }, column: { column }, head: {} }[kind];
  return page.live.cut({ kind, part: page.attention.part, ...place, heads, measured }).then((found) => ({
    candidates: found.candidates.map((/** @type {number} */ id, /** @type {number} */ at) => ({ id, label: found.vocabulary[id], before: found.before[at], after: found.kept[at] })),
    after: found.after.map((/** @type {[number, number]} */ [id, probability]) => ({ id, label: found.vocabulary[id], probability })),
    error: 0,
  }));
}

/**
 * Returns the kind of effect in the file that measures a cut, and the indices before the row.
 * @param {Cut} cut
 * @returns {["edges" | "head_edges" | "rows" | "head_rows" | "columns" | "heads", number[]] | null}
 */
function kindOf({ kind, heads, edges }) {
  if (edges || (heads && heads.length !== 1)) return null;
  const one = heads ? heads[0] : [];
  if (kind === "head") return ["heads", one];
  if (kind === "column") return heads ? null : ["columns", []];
  if (kind === "edge") return [heads ? "head_edges" : "edges", one];
  return [heads ? "head_rows" : "rows", one];
}

/**
 * Returns the effect of a cut from the file; null if the file does not have it.
 * @param {Page} page
 * @param {Cut} cut
 * @returns {Result | null}
 */
function storedEffect({ doc, attention }, cut) {
  const { cuts } = attention;
  const named = kindOf(cut);
  const effect = cuts && named ? cuts[named[0]] : null;
  const at = effect ? effect.rows.indexOf(cut.measured) : -1;
  if (!cuts || !named || !effect || at < 0) return null;
  const indices = [...named[1], at, ...(cut.kind === "edge" || cut.kind === "column" ? [cut.column] : [])];
  if (cut.column >= effect.change.shape[effect.change.shape.length - 2] && indices.length > named[1].length + 1) return null;
  const row = cut.measured - cuts.measured[0];
  const name = (/** @type {number} */ id) => doc.vocabulary[id] ?? `#${id}`;
  const candidates = [...effect.change.slice(...indices)].map((difference, rank) => {
    const before = cuts.before.at(row, rank);
    const id = cuts.candidates.at(row, rank);
    return { id, label: name(id), before, after: Math.max(0, before + difference) };
  });
  const { ids, probabilities } = effect;
  const after = ids && probabilities ? [...ids.slice(...indices)].map((id, rank) => ({ id, label: name(id), probability: probabilities.at(...indices, rank) })) : [];
  return { candidates, after, error: effect.change.error };
}

/**
 * Returns the heads of the first selection; null for all heads.
 * @param {Page} page
 * @returns {[number, number][] | null}
 */
function chosenHeads({ attention, chosen }) {
  const { layer, head } = chosen[0].selection;
  if (layer === null) return null;
  return head === null ? [...Array(attention.heads).keys()].map((each) => [layer, each]) : [[layer, head]];
}

/**
 * Returns the chosen cut; null if nothing is cut.
 * @param {Page} page
 * @returns {Cut | null}
 */
function chosenCut(page) {
  const kind = KINDS.find((each) => each === state.cut);
  const measured = predictedRow(page);
  if (!kind || measured === null) return null;
  const heads = kind === "head" || (kind !== "column" && !state.everywhere) ? chosenHeads(page) : null;
  const cut = { kind, row: page.row, column: page.source, heads, measured };
  return page.live && ofTokens(page, kind) ? { ...cut, ...edgesOf(page, cut) } : cut;
}

/**
 * Whether words are shown, and a cut of this kind is of one token of a word.
 * @param {Page} page
 * @param {Kind} kind
 */
function ofTokens({ words }, kind) {
  const units = !words || kind === "head" ? [] : kind === "row" ? [words.row] : kind === "column" ? [words.column] : [words.row, words.column];
  return units.some(({ start, stop }) => stop - start > 1);
}

/**
 * Returns the edges of a cut of words; nothing if they are too many. A row that is cut keeps the tokens of its word, in
 * cross-attention the last source.
 * @param {Page} page
 * @param {Cut} cut
 * @returns {{edges?: [number, number][]}}
 */
function edgesOf(page, { kind, heads }) {
  const { attention } = page;
  const { row, column } = /** @type {{row: Unit, column: Unit}} */ (page.words);
  const range = (/** @type {number} */ start, /** @type {number} */ stop) => [...Array(stop - start).keys()].map((at) => start + at);
  const every = range(0, attention.columns.length);
  const kept = (/** @type {number} */ source) => (attention.part === "cross" ? source === every.length - 1 : row.start <= source && source < row.stop);
  const rows = kind === "column" ? range(0, attention.rows.length) : range(row.start, row.stop);
  const sources = kind === "row" ? every.filter((source) => !kept(source)) : range(column.start, column.stop);
  const edges = rows.flatMap((from) => sources.filter((source) => isOpen(attention, heads, from, source)).map((source) => /** @type {[number, number]} */ ([from, source])));
  return edges.length > MOST_EDGES ? {} : { edges };
}

/**
 * Whether a row can attend to a source in a layer of some heads.
 * @param {import("./data.js").Attention} attention
 * @param {[number, number][] | null} heads null stands for all
 * @param {number} row
 * @param {number} column
 */
function isOpen(attention, heads, row, column) {
  const unit = (/** @type {number} */ at) => ({ start: at, stop: at + 1, index: at, label: "", special: false });
  const layers = heads ? heads.map(([layer]) => layer) : [null];
  return layers.some((layer) => !isMasked(attention, layer, unit(row), unit(column)));
}

/**
 * Returns why there is nothing to cut; null if there is something.
 * @param {Page} page
 * @param {Cut} cut
 */
function impossible(page, cut) {
  const { kind, row, column, heads, edges } = cut;
  const { attention } = page;
  const values = namesOf(page, cut);
  if (kind === "head") return heads?.length === 1 ? null : text("cut.no_head");
  if (kind !== "row" && column >= attention.reach[row]) return text("cut.masked.later", values);
  if (kind === "edge" && !isOpen(attention, heads, row, column)) return text("cut.masked.window", values);
  if (kind !== "column" && attention.reach[row] === 1) return text("cut.only", values);
  if (edges && !edges.length) return text("cut.only.word", values);
  return null;
}

/**
 * Says why the file does not have a cut, and how to measure it.
 * @param {Page} page
 * @param {Cut} cut
 */
function missing(page, cut) {
  const { attention, doc } = page;
  const encoder = attention.part === "encoder" && doc.attentions.length > 1 && cut.kind !== "head";
  const reason = !attention.cuts ? "none" : encoder ? "encoder" : kindOf(cut) ? "far" : "heads";
  return element("p", { class: "missing" }, `${text(`cut.missing.${reason}`)} ${text("cut.serve")}`);
}

/**
 * Names the row and the source of a cut: words if words are shown and the cut covers them, otherwise tokens.
 * @param {Page} page
 * @param {{kind: Kind, edges?: unknown}} cut
 * @returns {Names}
 */
function namesOf(page, { kind, edges }) {
  const { attention, row, source, words } = page;
  if (words && (edges || !ofTokens(page, kind))) return { row: unitName(words.row), column: unitName(words.column) };
  return { row: unitName({ label: attention.rows[row].label, index: row + attention.first }), column: unitName({ label: attention.columns[source].label, index: source }) };
}

/**
 * Says which tokens are cut if words are shown; null if the cut covers the words.
 * @param {Page} page
 * @param {{kind: Kind, edges?: unknown}} cut
 */
function tokensNote(page, cut) {
  if (cut.edges || !ofTokens(page, cut.kind)) return null;
  const { row, column } = namesOf(page, cut);
  const tokens = cut.kind === "edge" ? `${row} → ${column}` : cut.kind === "row" ? row : column;
  return element("p", { class: "note tokens-note" }, text("cut.tokens", { tokens }));
}

/**
 * Returns the token whose probability is followed: the chosen one, if it is among the candidates, otherwise the first.
 * @template {{id: number}} C
 * @param {C[]} candidates the most probable first
 */
function followed(candidates) {
  return candidates.find(({ id }) => id === state.token) ?? candidates[0];
}

/**
 * Returns the tokens whose probability can be followed, the most probable first; none if there is no cut to measure.
 * @param {Page} page
 * @param {Cut | null} cut
 */
function followable(page, cut) {
  const { attention, doc, live } = page;
  const measured = predictedRow(page);
  if (measured === null || !doc.predictions || !(attention.cuts || live)) return [];
  const found = cut && !impossible(page, cut) ? storedEffect(page, cut) : null;
  const ids = attention.cuts ? attention.cuts.candidates.slice(measured - attention.cuts.measured[0]) : doc.predictions.ids.slice(measured - doc.predictions.rows[0]).slice(0, MEASURED);
  return (found?.candidates ?? [...ids].map((id) => ({ id, label: doc.vocabulary[id] ?? `#${id}` }))).map(({ id, label }) => ({ id, label }));
}

/**
 * Returns the list that chooses the token whose probability is followed.
 * @param {{id: number, label: string}[]} candidates
 */
function followChoice(candidates) {
  const list = element("select", { name: "token", onchange: () => follow(Number(list.value), candidates) }, ...candidates.map(({ id, label }) => element("option", { value: id, selected: followed(candidates).id === id }, isolated(label))));
  return element("label", { class: "control follow" }, element("span", { class: "control-name" }, text("cut.follow")), list);
}

/**
 * Follows the probability of a token; the most probable token is followed whatever it is.
 * @param {number} id
 * @param {{id: number}[]} candidates
 */
function follow(id, candidates) {
  change({ token: id === candidates[0].id ? null : id });
}

/**
 * Builds the buttons that choose what is cut.
 * @param {Page} page
 * @param {HTMLElement} holder
 * @param {{id: number, label: string}[]} offered the tokens that can be followed
 */
function buildChoice(page, holder, offered) {
  const head = headName(page.chosen[0].name);
  const single = page.chosen[0].selection.head !== null;
  const buttons = KINDS.map((kind) => {
    const key = kind === "head" && !single ? "cut.head.none" : `cut.${kind}`;
    const values = { ...namesOf(page, { kind, edges: page.live }), head };
    const about = single || kind !== "head" ? text(saying(page, `cut.${kind}.about`), values) : null;
    const onclick = () => page.choose(page.source, { cut: state.cut === kind ? "none" : kind });
    return element("button", { type: "button", "data-cut": kind, "aria-pressed": String(state.cut === kind), disabled: about === null && state.cut !== kind, title: about, onclick }, text(key, values));
  });
  const group = element("div", { class: "cut-kinds", role: "group", "aria-label": text("cut.what") }, ...buttons);
  roving(group, "button:not(:disabled)");
  const everywhere = tick("everywhere", "cut.everywhere");
  if (state.cut === "column") Object.assign(/** @type {HTMLInputElement} */ (everywhere.firstChild), { checked: true, disabled: true });
  fill(holder, group, state.cut !== "head" && everywhere, offered.length > 1 && followChoice(offered));
}

/**
 * Returns the key of a text about a cut; the row of cross-attention has a text of its own.
 * @param {Page} page
 * @param {string} key
 */
function saying({ attention }, key) {
  return attention.part === "cross" && key.startsWith("cut.row.") ? `${key}.cross` : key;
}

/**
 * Returns the tokens that are among the most probable ones after a cut only, with their probabilities before it. Of a
 * token that is not among the stored ones, the least probability of these is a bound.
 * @param {Page} page
 * @param {Result} found
 * @returns {Risen[]}
 */
function risenOf(page, { candidates, after }) {
  const known = new Set(candidates.map(({ id }) => id));
  const row = predictedRow(page);
  const { predictions } = page.doc;
  if (!predictions || row === null) return [];
  const { ids, probabilities } = distributionOf(predictions, row, PLAIN);
  const least = probabilities[probabilities.length - 1];
  const unit = least < 0.00995 ? 1e4 : 1e3; // as many digits as `percent` shows
  const bound = Math.ceil(least * unit) / unit;
  return after.filter(({ id }) => !known.has(id)).map(({ id, label, probability }) => {
    const at = ids.indexOf(id);
    const shown = (/** @type {Format} */ format) => (at < 0 ? `<${format(bound)}` : format(probabilities[at]));
    return { label, before: at < 0 ? 0 : probabilities[at], shown, after: probability };
  });
}

/**
 * Returns the effect in words and as bars.
 * @param {Page} page
 * @param {Cut} cut
 * @param {Result} found
 * @returns {Element[]}
 */
function verdictOf(page, cut, found) {
  const first = followed(found.candidates);
  const best = found.candidates[0];
  const heads = cut.heads ? headName(page.chosen[0].name) : text("heads.all");
  const values = { ...namesOf(page, cut), heads, head: heads };
  const now = found.after.length && found.after[0].id !== best.id ? element("p", {}, text("cut.now", { token: found.after[0].label, probability: percent(found.after[0].probability) })) : null;
  const sentence = element("p", {}, text(saying(page, `cut.${cut.kind}.done`), values));
  const [before, after] = percents(first.before, first.after);
  const way = before === after ? "" : direction(first);
  const words = element("p", { class: `result ${way}` }, `P(${isolated(first.label)}) ${before} → ${after}`, way && element("span", { class: "direction" }, ` ${text(`cut.${way}`)}`));
  const notes = element("p", { class: "note" }, [text("cut.exact"), cut.kind !== "head" && text("cut.exact.scores"), found.error && text("cut.rounded", { error: number(100 * found.error, 2) })].filter(Boolean).join(" "));
  const tokens = tokensNote(page, cut);
  return [sentence, words, ...(now ? [now] : []), ...(tokens ? [tokens] : []), comparisonOf(page, found), notes];
}

/**
 * Returns the class that colors a change.
 * @param {{before: number, after: number}} change
 */
function direction({ before, after }) {
  return after < before ? "falls" : after > before ? "rises" : "";
}

/**
 * Returns the candidates with their probabilities before and after the cut, side by side.
 * @param {Page} page
 * @param {Result} found
 */
function comparisonOf(page, found) {
  const pairs = [...found.candidates.map((each) => ({ ...each, shown: (/** @type {Format} */ format) => format(each.before) })), ...risenOf(page, found)];
  const most = Math.max(...pairs.flatMap(({ before, after }) => [before, after]), 0.01);
  const bar = (/** @type {number} */ share, /** @type {string} */ kind) => {
    const filled = element("span", { class: "bar" });
    filled.style.width = `${(100 * share) / most}%`;
    return element("span", { class: `track ${kind}` }, filled);
  };
  const figure = (/** @type {string} */ shown) => element("span", { class: "share" }, shown);
  const head = element("div", { class: "pair head", "aria-hidden": "true" }, element("span"), element("span", { class: "wide-two" }, text("cut.before")), element("span", { class: "wide-two" }, text("cut.after")));
  const name = (/** @type {string} */ label, /** @type {number} */ at) => {
    if (at >= found.candidates.length) return element("bdi", { class: "token-name" }, label);
    const { id } = found.candidates[at];
    return element("button", { type: "button", class: "token-name", "data-token": id, "aria-pressed": String(id === followed(found.candidates).id), title: text("cut.follow.about", { token: label }), onclick: () => follow(id, found.candidates) }, element("bdi", {}, label));
  };
  const lines = pairs.map(({ label, before, shown, after }, at) => element("div", { class: "pair", role: "listitem" }, name(label, at), bar(before, "before"), figure(shown(percent)), bar(after, "after"), figure(percent(after))));
  const list = element("div", { role: "list", "aria-label": text("cut.table"), class: "pairs" }, ...lines);
  roving(list, "button");
  return element("div", {}, head, list);
}

/**
 * @param {Page} page
 * @param {Result | null} result
 */
function tableOf(page, result) {
  const found = result ?? { candidates: [], after: [], error: 0 };
  const exact = (/** @type {number} */ share) => percentOf(share, 4);
  return {
    caption: text("cut.table"),
    head: [text("next.token"), text("cut.before"), text("cut.after")],
    rows: [
      ...found.candidates.map(({ label, before, after }) => [label, exact(before), exact(after)]),
      ...risenOf(page, found).map(({ label, shown, after }) => [label, shown(exact), exact(after)]),
    ],
  };
}

/**
 * Ranks the heads by what the chosen cut in one head changes; by what cutting the whole head does if no cut is chosen, or
 * if the file does not have the chosen cut in single heads.
 * @param {Page} page
 * @returns {Node[]}
 */
function rankingOf(page) {
  const asked = /** @type {Kind} */ (state.cut === "edge" || state.cut === "row" ? state.cut : "head");
  const column = page.source;
  for (const kind of new Set(/** @type {Kind[]} */ ([asked, "head"]))) {
    const { ranked, token } = rankedHeads(page, kind, column);
    if (!ranked.length) continue;
    const most = Math.max(Math.abs(ranked[0].after - ranked[0].before), SHORTEST);
    const list = element("div", { class: "ranked", role: "group", "aria-label": text("cut.ranking") }, ...ranked.slice(0, MOST_RANKED).map((each) => rankedHead(page, kind, each, most)));
    roving(list, "button");
    const about = text(`cut.ranking.${kind}`, { ...namesOf(page, { kind }), token, measure: text(`measure.${page.headMeasure}`) });
    const tokens = tokensNote(page, { kind });
    return [element("h3", {}, text("cut.ranking")), element("p", { class: "note" }, about), ...(tokens && page.live ? [tokens] : []), list];
  }
  return [];
}

/**
 * Returns what a cut in each head alone leaves of the predicted token, the largest change first.
 * @param {Page} page
 * @param {Kind} kind
 * @param {number} column
 */
function rankedHeads(page, kind, column) {
  const { attention } = page;
  const { cuts } = attention;
  const measured = predictedRow(page);
  /** @type {Ranked[]} */
  const ranked = [];
  let token = "";
  for (let at = 0; measured !== null && cuts && at < attention.layers * attention.heads; at++) {
    const [layer, head] = [Math.floor(at / attention.heads), at % attention.heads];
    /** @type {Cut} */
    const cut = { kind, row: page.row, column, heads: [[layer, head]], measured };
    const found = impossible(page, cut) ? null : storedEffect(page, cut);
    if (!found) continue;
    const first = followed(found.candidates);
    if (state.token !== null && first.id !== state.token && cuts.candidates.slice(measured - cuts.measured[0]).includes(state.token)) break; // not stored for this kind
    ranked.push({ name: selectionName({ layer, head }), share: page.shareIn({ layer, head }, column), before: first.before, after: first.after });
    token = first.label;
  }
  ranked.sort((one, other) => Math.abs(other.after - other.before) - Math.abs(one.after - one.before));
  return { ranked, token };
}

/**
 * Returns the button of a head in the ranking.
 * @param {Page} page
 * @param {Kind} kind
 * @param {Ranked} ranked
 * @param {number} most the change with the longest bar
 */
function rankedHead(page, kind, { name, share, before, after }, most) {
  const choose = () => change({ heads: [name], cut: kind, ...(kind === "head" ? {} : { everywhere: false }) });
  const bar = element("span", { class: `bar ${direction({ before, after })}` });
  bar.style.width = `${((100 * Math.abs(after - before)) / most).toFixed(2)}%`;
  return element(
    "button",
    { type: "button", class: `ranked-head ${kind}`, "data-head": name, "aria-pressed": String(page.chosen.some((each) => each.name === name)), onclick: choose },
    element("span", { class: "ranked-name" }, headName(name)),
    kind === "edge" && element("span", { class: "ranked-edge" }, percent(share)),
    element("span", { class: "track" }, bar),
    element("span", { class: "share" }, percents(before, after).join(" → ")),
  );
}
