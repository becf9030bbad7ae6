// @ts-check
// Kinds of heads: which pattern a head follows beyond chance, by the scores of `attncli heads`.

/** @typedef {import("./data.js").Kinds} Kinds */
/** @typedef {{layer: number, head: number}} Head */
/** @typedef {{kind: string, score: number, chance: number, margin: number}} Found */

const IDLE = ["sink", "end", "itself"]; // kinds of heads that move no information between words
const STANDS_OUT = 0.05; // the least (score - chance) / (1 - chance)

/**
 * Whether heads of a kind are usually idle.
 * @param {string} kind
 */
export function isIdleKind(kind) {
  return IDLE.includes(kind);
}

/**
 * Returns the score of a head for a kind, the chance level of its layer, and (score - chance) / (1 - chance).
 * @param {Kinds} kinds
 * @param {number} at the position of the kind
 * @param {Head} head
 * @returns {Found}
 */
function found(kinds, at, { layer, head }) {
  const score = kinds.scores.at(at, layer, head);
  const chance = kinds.chances.at(at, layer);
  return { kind: kinds.names[at], score, chance, margin: (score - chance) / Math.max(1 - chance, 1e-9) };
}

/**
 * Returns the scores of a head for all kinds. A score is NaN if no row of the layer can follow the pattern.
 * @param {Kinds} kinds
 * @param {Head} head
 */
export function scoresOf(kinds, head) {
  return kinds.names.map((_, at) => found(kinds, at, head));
}

/**
 * Returns the kind at which a head stands out most from chance; null if it does at none.
 * @param {Kinds | null} kinds
 * @param {Head} head
 * @returns {Found | null}
 */
export function standsOut(kinds, head) {
  const best = kinds && highest(scoresOf(kinds, head));
  return best && best.margin > STANDS_OUT ? best : null;
}

/**
 * Returns all heads, layer by layer, or those with the highest score for a kind first and those without a score last.
 * @param {{layers: number, heads: number, kinds: Kinds | null}} attention
 * @param {string} order "layer", or a kind
 * @returns {Head[]}
 */
export function sortedHeads({ layers, heads, kinds }, order) {
  const all = [...Array(layers * heads).keys()].map((at) => ({ layer: Math.floor(at / heads), head: at % heads }));
  const kind = kinds ? kinds.names.indexOf(order) : -1;
  if (!kinds || kind < 0) return all;
  const score = (/** @type {Head} */ { layer, head }) => kinds.scores.at(kind, layer, head);
  return all.sort((one, other) => (score(other) || 0) - (score(one) || 0) || Number(Number.isNaN(score(one))) - Number(Number.isNaN(score(other))));
}

/**
 * Returns the head to look at first: of the best heads of each kind, the one that stands out most. Idle kinds are left
 * out. Returns null if no head stands out.
 * @param {{layers: number, heads: number, kinds: Kinds | null}} attention
 * @returns {(Found & Head) | null}
 */
export function worthALook(attention) {
  const { kinds } = attention;
  if (!kinds) return null;
  const best = kinds.names.flatMap((kind, at) => {
    const [head] = sortedHeads(attention, kind);
    return isIdleKind(kind) ? [] : [{ ...found(kinds, at, head), ...head }];
  });
  const first = highest(best);
  return first && first.margin > STANDS_OUT ? first : null;
}

/**
 * Returns the one with the greatest margin; margins that are not numbers are left out.
 * @template {Found} F
 * @param {F[]} list
 * @returns {F | null}
 */
function highest(list) {
  return list.reduce((/** @type {F | null} */ best, each) => (each.margin > (best?.margin ?? -Infinity) ? each : best), null);
}
