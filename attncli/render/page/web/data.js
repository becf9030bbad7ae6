// @ts-check
// Decodes the payload: a JSON header, followed by arrays of quantized numbers.

/** @typedef {{at: number, type: string, shape: number[], scale?: number, scales?: ArrayReference}} ArrayReference */
/** @typedef {{id: number, label: string, special: boolean}} Token */
/** @typedef {[number, number, string]} Word  the first token, the token after the last, the label */
/** @typedef {{code: string, part: string, shown: number, of: number}} Limit */
/** @typedef {{names: string[], scores: NdArray, chances: NdArray, sequences: number, length: number}} Kinds */
/** @typedef {{heads: [number, number][], rows: [number, number], query: NdArray, key: NdArray, value: NdArray, scores: NdArray, written: NdArray, divided: boolean, biased: boolean, width: number}} Steps */
/** @typedef {{rows: number[], change: NdArray, ids: NdArray | null, probabilities: NdArray | null}} Effect  change of the candidates' probabilities */
/** @typedef {{measured: [number, number], candidates: NdArray, before: NdArray, edges: Effect | null, head_edges: Effect | null, rows: Effect | null, head_rows: Effect | null, columns: Effect | null, heads: Effect | null}} Cuts */
/** @typedef {{ids: NdArray, probabilities: NdArray, target: NdArray, rank: NdArray}} Lens */
/** @typedef {{what: "next" | "itself", rows: [number, number], ids: NdArray, logits: NdArray, tail: NdArray, tail_width: number, probability_of_kept: NdArray, actual: NdArray, entropy: NdArray, lens: Lens | null}} Predictions */
/** @typedef {{part: string, layers: number, heads: number, rows: Token[], columns: Token[], first: number, row_words: Word[], column_words: Word[], reach: number[], windows: (number | null)[], square: boolean, stored: [number, number], raw: NdArray, norm: NdArray, layer_shares: NdArray, rollout: NdArray | null, even: NdArray | null, thumbnails: {pool: number, weights: NdArray} | null, kinds: Kinds | null, steps: Steps | null, cuts: Cuts | null}} Attention */
/** @typedef {{model: string, kind: string, parameters: number, context: number, tokens: Token[], source: Token[] | null, attentions: Attention[], predictions: Predictions | null, vocabulary: Record<string, string>, start: {part: string, row: number, heads: [number, number][], temperature: number, top_k: number, top_p: number, min_p: number, words: boolean, weights: "norm" | "raw"}, limits: Limit[]}} Doc */
/** @typedef {{format: number, tool: string, documents: Doc[], comparison: any}} Payload */

const ALIGNED = 8;
const TYPES = { u8: Uint8Array, u16: Uint16Array, i8: Int8Array, i16: Int16Array, i32: Int32Array, f32: Float32Array, f64: Float64Array };

/** An array of numbers with a shape. A value is a stored number times a scale. */
export class NdArray {
  /**
   * @param {ArrayReference} reference
   * @param {ArrayBuffer} buffer
   * @param {number} start the byte at which the arrays begin
   */
  constructor(reference, buffer, start) {
    this.shape = reference.shape;
    const Type = TYPES[/** @type {keyof typeof TYPES} */ (reference.type)];
    const size = this.shape.reduce((product, length) => product * length, 1);
    this.stored = new Type(buffer, start + reference.at, size);
    this.scale = reference.scale ?? 1;
    /** @type {NdArray | null} */
    this.scales = reference.scales ? new NdArray(reference.scales, buffer, start) : null;
  }

  /** The greatest difference between a stored number and the number it stands for: half a step. */
  get error() {
    return this.scale === 1 ? 0 : this.scale / 2;
  }

  /**
   * Returns the greatest difference between one number and the number that was stored: half a step of its scale.
   * @param {...number} indices
   */
  errorAt(...indices) {
    return this.scales ? this.scales.at(...indices.slice(0, -1)) / 2 : this.error;
  }

  /**
   * Returns one number.
   * @param {...number} indices
   */
  at(...indices) {
    const at = this.offset(indices);
    const own = this.scales ? this.scales.stored[Math.floor(at / this.shape[this.shape.length - 1])] : this.scale;
    return this.stored[at] * own;
  }

  /**
   * Returns the numbers of all axes after the given indices, flat: `slice(layer, head)` is a matrix.
   * @param {...number} indices
   * @returns {Float64Array}
   */
  slice(...indices) {
    const size = this.shape.slice(indices.length).reduce((product, length) => product * length, 1);
    const start = this.offset([...indices, ...this.shape.slice(indices.length).map(() => 0)]);
    const width = this.shape[this.shape.length - 1];
    const values = new Float64Array(size);
    for (let at = 0; at < size; at++) {
      const scale = this.scales ? this.scales.stored[Math.floor((start + at) / width)] : this.scale;
      values[at] = this.stored[start + at] * scale;
    }
    return values;
  }

  /** @param {number[]} indices */
  offset(indices) {
    return indices.reduce((at, index, axis) => at * this.shape[axis] + index, 0);
  }
}

/**
 * Decodes a payload. Rejects if the bytes are damaged or of another format.
 * @param {BufferSource} bytes
 * @returns {Promise<Payload>}
 */
export async function decode(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (header.format !== 1) throw new Error(`format ${header.format}`);
  const start = Math.ceil((4 + length) / ALIGNED) * ALIGNED;
  return revive(header, buffer, start);
}

/**
 * Replaces every {"array": …} by an NdArray.
 * @param {any} value
 * @param {ArrayBuffer} buffer
 * @param {number} start
 * @returns {any}
 */
function revive(value, buffer, start) {
  if (Array.isArray(value)) return value.map((each) => revive(each, buffer, start));
  if (value === null || typeof value !== "object") return value;
  if (value.array) return new NdArray(value.array, buffer, start);
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revive(each, buffer, start)]));
}

/**
 * Decodes base64 to bytes.
 * @param {string} text
 */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}
