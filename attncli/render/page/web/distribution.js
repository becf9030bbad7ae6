// @ts-check
// The distribution of a row at any temperature, from its largest logits and a histogram of the others, and the filters
// of generation: top-k, top-p and min-p, in this order, after the temperature. Each filter sees what the ones before left.

import { state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./data.js").Predictions} Predictions */
/** @typedef {{temperature: number, top_k: number, top_p: number, min_p: number}} Settings */
/**
 * @typedef {object} Distribution  of K tokens with the largest logits, the largest first, and of the others in bins
 * @property {number[]} ids
 * @property {number[]} probabilities  before the filters
 * @property {boolean[]} kept  whether the filters leave a token
 * @property {number[]} drawn  the probabilities that a token is drawn from
 * @property {number} others  the probability of all other tokens
 * @property {number} others_count
 * @property {number} others_kept  how many of the other tokens the filters leave; about, because a bin may be split
 * @property {number} others_drawn  the probability of drawing one of the others
 * @property {number} removed  the probability of all tokens that the filters remove
 * @property {number} entropy  in nats, before the filters
 * @property {number} actual  the probability of the token in the text; NaN if there is none
 * @property {number} error  the greatest error of a probability
 */

/** The distribution of the model itself. @type {Settings} */
export const PLAIN = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 };

/**
 * Returns the row of the predictions that belongs to what is shown: the locked row, or in the encoder of a translating
 * model the row that the page started with.
 * @param {Page} page
 * @returns {number | null} null if nothing is predicted, or if this row is not stored
 */
export function predictedRow(page) {
  const { predictions, start, attentions } = page.doc;
  if (!predictions) return null;
  const other = page.attention.part === "encoder" && attentions.length > 1;
  const row = !other ? page.row : start.part === "encoder" ? attentions[attentions.length - 1].rows.length - 1 : start.row;
  const [first, count] = predictions.rows;
  return row >= first && row < first + count ? row : null;
}

/** Returns the chosen temperature and filters. @returns {Settings} */
export function settings() {
  return {
    temperature: Math.max(0, state.temperature),
    top_k: Math.max(0, Math.round(state.top_k)),
    top_p: Math.min(1, Math.max(0, state.top_p)),
    min_p: Math.min(1, Math.max(0, state.min_p)),
  };
}

/**
 * Returns the distribution of a row.
 * @param {Predictions} predictions
 * @param {number} row
 * @param {Settings} settings
 * @returns {Distribution}
 */
export function distributionOf(predictions, row, { temperature, ...filters }) {
  if (temperature === 0) return greedy(distributionOf(predictions, row, PLAIN));
  const at = row - predictions.rows[0];
  const ids = [...predictions.ids.slice(at)];
  const logits = [...predictions.logits.slice(at)];
  const counts = [...predictions.tail.slice(at)];
  const exact = predictions.probability_of_kept.at(at);
  const bins = predictions.tail_width;
  const actual = predictions.actual.at(at) + Math.log(sum(logits.map(Math.exp)) / exact); // its logit
  const scaled = logits.map((logit) => Math.fround(logit / temperature));
  const middles = counts.map((_, bin) => (-(bin + 0.5) * bins) / temperature);
  const kept = sum(scaled.map(Math.exp));
  const tail = counts.map((count, bin) => count * Math.exp(middles[bin]));
  // The sum over the tail is known at temperature 1. At other temperatures it follows from the bins.
  const known = temperature === 1 ? (kept * (1 - exact)) / exact : sum(tail);
  const factor = sum(tail) > 0 ? known / sum(tail) : 0;
  const total = kept + known;
  const probabilities = scaled.map((each) => Math.exp(each) / total);
  const others = tail.map((each) => (each * factor) / total);
  const left = filtered({ scaled, probabilities, counts, others, width: bins / temperature }, filters);
  const terms = [...probabilities.map((each, index) => each * scaled[index]), ...others.map((each, bin) => each * middles[bin])];
  const share = sum(others);
  return {
    ids,
    probabilities,
    kept: left.kept,
    drawn: probabilities.map((each, index) => (left.kept[index] ? each / left.mass : 0)),
    others: share,
    others_count: sum(counts),
    others_kept: Math.round(sum(left.counts)),
    others_drawn: sum(left.others) / left.mass,
    removed: Math.max(0, 1 - left.mass),
    entropy: temperature === 1 ? predictions.entropy.at(at) : Math.log(total) - sum(terms),
    actual: Math.exp(actual / temperature) / total,
    error: temperature === 1 ? 0 : Math.max(...[-1, 1].map((sign) => Math.abs(probabilities[0] * (1 / (1 - share + share * Math.exp((sign * bins) / 2 / temperature)) - 1)))),
  };
}

/**
 * Returns the distribution of temperature 1 from which temperature 0 draws the first token: the one with the largest
 * logit, among equal ones the one with the lowest id.
 * @param {Distribution} found
 * @returns {Distribution}
 */
function greedy(found) {
  const kept = found.ids.map((_, index) => index === 0);
  return { ...found, kept, drawn: kept.map(Number), others_kept: 0, others_drawn: 0, removed: 1 - found.probabilities[0] };
}

/**
 * Applies the filters in the order of generation. A filter keeps at least one token.
 * @param {{scaled: number[], probabilities: number[], counts: number[], others: number[], width: number}} distribution
 *   `others` are the probabilities of the bins, and `width` is the width of a bin at the temperature
 * @param {{top_k: number, top_p: number, min_p: number}} filters
 */
function filtered({ scaled, probabilities, counts, others, width }, { top_k, top_p, min_p }) {
  let kept = probabilities.map(() => true);
  let left = counts.slice();
  if (top_k > 0) {
    kept = kept.map((_, index) => index < top_k);
    left = firstOf(left, Math.max(0, top_k - kept.length));
  }
  if (top_p < 1) {
    const target = top_p * mass();
    let reached = 0;
    kept = kept.map((each, index) => {
      const needed = each && (index === 0 || reached < target);
      if (needed) reached += probabilities[index];
      return needed;
    });
    left = left.map((count, bin) => {
      const needed = count && reached < target ? Math.min(count, Math.ceil(((target - reached) / others[bin]) * counts[bin])) : 0;
      if (needed) reached += (others[bin] * needed) / counts[bin];
      return needed;
    });
  }
  if (min_p > 0) {
    const least = Math.fround(Math.log(min_p));
    kept = kept.map((each, index) => each && scaled[index] >= least);
    left = left.map((count, bin) => Math.min(count, counts[bin] * Math.min(1, Math.max(0, -least / width - bin))));
  }
  function mass() {
    return sum(probabilities.filter((_, index) => kept[index])) + sum(others.map((each, bin) => share(each, bin)));
  }
  function share(/** @type {number} */ probability, /** @type {number} */ bin) {
    return counts[bin] ? (probability * left[bin]) / counts[bin] : 0;
  }
  return { kept, counts: left, others: others.map(share), mass: mass() };
}

/**
 * Returns how many tokens of each bin are among the first `most`.
 * @param {number[]} counts
 * @param {number} most
 */
function firstOf(counts, most) {
  let rest = most;
  return counts.map((count) => {
    const taken = Math.min(count, rest);
    rest -= taken;
    return taken;
  });
}

/** @param {number[]} values */
function sum(values) {
  return values.reduce((total, each) => total + each, 0);
}
