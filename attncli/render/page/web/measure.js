// @ts-check
// Computes what a picture shows: the weights or shares of a head, of a layer, or of all layers, in tokens or words.

/** @typedef {import("./data.js").Attention} Attention */
/** @typedef {import("./data.js").Token} Token */
/** @typedef {"raw" | "norm" | "rollout"} Measure */
/** @typedef {{layer: number | null, head: number | null}} Selection  null stands for all layers, or all heads */
/** @typedef {{start: number, stop: number, index: number, label: string, special: boolean}} Unit  a token or a word */
/** @typedef {{rows: Unit[], columns: Unit[], values: Float64Array, even: Float64Array | null, largest: Map<string, number>}} Matrix  rows x columns */

/** @type {WeakMap<Attention, Map<string, any>>} what was computed for an attention, by name */
const known = new WeakMap();

/**
 * Returns what `compute` returned for this attention and name before, or calls it.
 * @template T
 * @param {Attention} attention
 * @param {string} name
 * @param {() => T} compute
 * @returns {T}
 */
export function remembered(attention, name, compute) {
  let values = known.get(attention);
  if (!values) known.set(attention, (values = new Map()));
  if (!values.has(name)) values.set(name, compute());
  return values.get(name);
}

/**
 * Returns the text of a selection: "2.3", "L2" for a layer, "all".
 * @param {Selection} selection
 */
export function selectionName({ layer, head }) {
  if (layer === null) return "all";
  return head === null ? `L${layer}` : `${layer}.${head}`;
}

/**
 * Parses the text of a selection; returns null if the model has no such head.
 * @param {string} name
 * @param {Attention} attention
 * @returns {Selection | null}
 */
export function parseSelection(name, attention) {
  if (name === "all") return { layer: null, head: null };
  const found = /^L(\d+)$|^(\d+)\.(\d+)$/.exec(name);
  if (!found) return null;
  const layer = Number(found[1] ?? found[2]);
  const head = found[3] === undefined ? null : Number(found[3]);
  return layer < attention.layers && (head === null || head < attention.heads) ? { layer, head } : null;
}

/**
 * Returns the stored rows of an attention as tokens or words. A word is a unit only if all its tokens are stored; if
 * there is no such word, the units are tokens.
 * @param {Attention} attention
 * @param {boolean} words
 * @returns {Unit[]}
 */
export function rowUnits(attention, words) {
  const [first, count] = attention.stored;
  const stored = remembered(attention, `rows ${words}`, () =>
    units(attention.rows, attention.row_words, words, attention.first).filter((unit) => unit.start >= first && unit.stop <= first + count),
  );
  return words && !stored.length ? rowUnits(attention, false) : stored;
}

/**
 * Returns a text that equals that of another unit only if both are shown alike.
 * @param {Unit} unit
 */
export function keyOf({ start, stop, index, label, special }) {
  return `${start} ${stop} ${index} ${special} ${label}`;
}

/**
 * Returns the columns of an attention as tokens or words.
 * @param {Attention} attention
 * @param {boolean} words
 * @returns {Unit[]}
 */
export function columnUnits(attention, words) {
  return remembered(attention, `columns ${words}`, () => units(attention.columns, attention.column_words, words, 0));
}

/**
 * @param {Token[]} tokens
 * @param {import("./data.js").Word[]} spans
 * @param {boolean} words
 * @param {number} first the index that names the first unit
 * @returns {Unit[]}
 */
function units(tokens, spans, words, first) {
  if (!words) {
    return tokens.map(({ label, special }, at) => ({ start: at, stop: at + 1, index: at + first, label, special }));
  }
  return spans.map(([start, stop, label], at) => ({ start, stop, index: at + first, label, special: tokens[start].special }));
}

/**
 * Returns the number of columns of a row that are not masked, counted in units. A window masks more; see `isMasked`.
 * @param {Attention} attention
 * @param {Unit} row
 * @param {Unit[]} columns
 */
export function reachOf(attention, row, columns) {
  const reach = attention.reach[row.stop - 1];
  let [low, high] = [0, columns.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (columns[middle].start < reach) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Whether a row cannot attend to a column in a layer, or in all layers if `layer` is null.
 * @param {Attention} attention
 * @param {number | null} layer
 * @param {Unit} row
 * @param {Unit} column
 */
export function isMasked(attention, layer, row, column) {
  if (column.start >= attention.reach[row.stop - 1]) return true;
  const windows = layer === null ? attention.windows : [attention.windows[layer]];
  return windows.every((window) => window !== null && column.stop - 1 <= row.start - window);
}

/**
 * Returns the matrix of a selection, computed once. Rollout does not depend on the selection.
 * @param {Attention} attention
 * @param {Selection} selection
 * @param {Measure} measure
 * @param {boolean} words
 * @returns {Matrix}
 */
export function matrixOf(attention, selection, measure, words) {
  const key = `${measure} ${measure === "rollout" ? "" : selectionName(selection)} ${words}`;
  return remembered(attention, key, () => {
    const rows = rowUnits(attention, words);
    const columns = columnUnits(attention, words);
    const values = measure === "rollout" ? attention.rollout?.slice() : tokenMatrix(attention, selection, measure);
    const even = measure === "rollout" ? attention.even?.slice() : undefined;
    return {
      rows,
      columns,
      values: grouped(attention, /** @type {Float64Array} */ (values), rows, columns),
      even: even ? grouped(attention, even, rows, columns) : null,
      largest: new Map(),
    };
  });
}

/**
 * Returns the largest number of a matrix, without the columns that are hidden.
 * @param {Matrix} matrix
 * @param {boolean[]} hidden by column; empty if none is hidden
 */
export function largestOf({ values, columns, largest }, hidden) {
  const key = hidden.join();
  let most = largest.get(key);
  if (most === undefined) {
    most = values.reduce((found, value, at) => (hidden[at % columns.length] ? found : Math.max(found, value)), 1e-9);
    largest.set(key, most);
  }
  return most;
}

/**
 * Returns the numbers of a selection by token (R x S). Heads and layers are averaged.
 * @param {Attention} attention
 * @param {Selection} selection
 * @param {"raw" | "norm"} measure
 * @returns {Float64Array}
 */
function tokenMatrix(attention, { layer, head }, measure) {
  if (layer !== null && head !== null) return attention[measure].slice(layer, head);
  const layers = layer === null ? [...Array(attention.layers).keys()] : [layer];
  const parts = layers.flatMap((each) =>
    measure === "norm"
      ? [attention.layer_shares.slice(each)]
      : [...Array(attention.heads).keys()].map((at) => attention.raw.slice(each, at)),
  );
  const mean = new Float64Array(parts[0].length);
  for (const part of parts) for (let at = 0; at < mean.length; at++) mean[at] += part[at] / parts.length;
  return mean;
}

/**
 * Sums the numbers over the columns of a unit, and averages them over the rows of a unit.
 * @param {Attention} attention
 * @param {Float64Array} values R x S
 * @param {Unit[]} rows
 * @param {Unit[]} columns
 * @returns {Float64Array}
 */
function grouped(attention, values, rows, columns) {
  const [first] = attention.stored;
  const sources = attention.raw.shape[3];
  const table = new Float64Array(rows.length * columns.length);
  rows.forEach((row, at) => {
    for (let token = row.start; token < row.stop; token++) {
      columns.forEach((column, to) => {
        let sum = 0;
        for (let source = column.start; source < Math.min(column.stop, sources); source++) {
          sum += values[(token - first) * sources + source];
        }
        table[at * columns.length + to] += sum / (row.stop - row.start);
      });
    }
  });
  return table;
}

/**
 * Returns the position in a list of units of the unit that contains a token; -1 if none does.
 * @param {Unit[]} list
 * @param {number} token
 */
export function unitOf(list, token) {
  return list.findIndex((unit) => unit.start <= token && token < unit.stop);
}

/**
 * Returns the columns that idle heads attend to: the first token of a decoder alone, otherwise the special tokens.
 * @param {Attention} attention
 * @param {boolean} causalAlone whether the model is a decoder alone
 * @param {Unit[]} columns
 * @returns {boolean[]}
 */
export function idleColumns(attention, causalAlone, columns) {
  return columns.map((column, at) => (causalAlone ? at === 0 : column.special));
}
