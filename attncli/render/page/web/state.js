// @ts-check
// The state of the page: what is selected and how it is shown. It is kept in the address, so that a view can be linked.

/** @typedef {import("./data.js").Doc} Doc */
/** @typedef {import("./data.js").Attention} Attention */
/** @typedef {import("./measure.js").Selection} Selection */

/**
 * @typedef {object} State
 * @property {string} view  lines, map, heads, steps or layers
 * @property {string} part  the attention: decoder, encoder or cross
 * @property {number} row  the locked row, as a token
 * @property {number} row2  the locked row of the second text
 * @property {[number, number] | null} hover  the text and the row under the pointer; not kept in the address
 * @property {number | null} column  the chosen source, as a token
 * @property {number | null} column2  the chosen source of the second text
 * @property {string[]} heads  names of selections: "2.3", "L2", "all"
 * @property {import("./measure.js").Measure} measure
 * @property {boolean} words
 * @property {boolean} idle  whether the first token or the special tokens are shown
 * @property {boolean} common  whether all heads share one color scale
 * @property {string} tint  what colors the text: share, surprise or none
 * @property {string} sort  the order of heads in the overview: layer, or a kind of head
 * @property {string} cut  what is cut: none, edge, row, column or head
 * @property {boolean} everywhere  whether a cut is made in all heads
 * @property {number | null} token  the id of the token whose probability is followed; null for the most probable one
 * @property {number} temperature
 * @property {number} top_k
 * @property {number} top_p
 * @property {number} min_p
 * @property {number} step  how many steps of the arithmetic are unfolded
 * @property {string} theme  auto, light, dark or contrast
 * @property {string} language
 * @property {string} text  the text of the live page
 * @property {string} target  the translation of the live page; empty for the model's own
 * @property {string} model  the model of the live page; empty for the one that the server was started with
 */

/** @type {(keyof State)[]} */
const NUMBERS = ["row", "row2", "column", "column2", "token", "temperature", "top_k", "top_p", "min_p", "step"];
/** @type {(keyof State)[]} */
const FLAGS = ["words", "idle", "common", "everywhere"];
/** The values of an address that are valid. @type {Partial<Record<keyof State, string[]>>} */
const CHOICES = {
  view: ["lines", "map", "heads", "steps", "layers"],
  measure: ["norm", "raw", "rollout"],
  tint: ["share", "surprise", "none"],
  cut: ["none", "edge", "row", "column", "head"],
  theme: ["auto", "light", "dark", "contrast"],
};
// Browsers ignore or refuse more than about 100 changes of the address in 30 seconds; a slider makes 60 in a second.
// The address of a long text takes tens of milliseconds, so it is written when the typing pauses.
export const TYPED = ["text", "target"];
const MOST_WRITES = 20; // changes of the address at once
const WRITE_EVERY = 400; // milliseconds between two changes after that

/** @type {((state: State, changed: Set<string>) => void)[]} */
const listeners = [];
/** @type {State} */
export const state = /** @type {State} */ ({});
/** @type {Partial<State>} */
let initial = {};
/** @type {Set<string>} */
const pending = new Set();

/**
 * Sets the initial state, then what the address says. A link to another view of this page loads the page again. On the
 * live page, the browser's Back and Forward change the text only, and call `restored`.
 * @param {State} values
 * @param {() => void} [restored]
 */
export function startState(values, restored) {
  initial = { ...values };
  addressed = fromAddress(location.hash);
  Object.assign(state, values, addressed);
  window.addEventListener("hashchange", () => history.state || location.reload()); // a link has no history.state
  if (!restored) return;
  mark = "text";
  history.replaceState(mark, "");
  window.addEventListener("popstate", (event) => {
    if (!event.state) return;
    clearTimeout(waiting); // what is not written belongs to another entry of the history
    const { text, target, model } = { ...initial, ...fromAddress(location.hash) };
    Object.assign(state, { text, target, model });
    restored();
    kept = textOf(state);
    writeAddress();
  });
}
/** The state of the entries that this page adds to the history. @type {string | null} */
let mark = null;

/** Keeps the present text in the history: another text then gets an entry of its own. */
export function keepText() {
  if (kept && kept !== textOf(state)) writeAddress(); // a typed text is written when the typing pauses
  kept = textOf(state);
}
/** The text that is kept; empty if the entry of the text is replaced by that of the next text. */
let kept = "";

/** @param {State} state */
function textOf({ text, target, model }) {
  return JSON.stringify([text, target, model]);
}

/** @type {Partial<State>} */
let addressed = {};

/**
 * Changes initial values of the state, and the state where it has the initial value. The address decides before.
 * @param {Partial<State>} values
 */
export function setInitial(values) {
  for (const name of /** @type {(keyof State)[]} */ (Object.keys(values))) {
    // @ts-ignore: the types of a name and its value agree
    if (!(name in addressed) && state[name] === initial[name]) state[name] = values[name];
  }
  Object.assign(initial, values);
}

/** Returns the values with which the page started, without those of the address. */
export function startValues() {
  return initial;
}

/** Returns the part of the state that the address gave when the page was opened. */
export function fromStart() {
  return addressed;
}

/**
 * Changes the state. Listeners run once, before the next frame is drawn.
 * @param {Partial<State>} values
 */
export function change(values) {
  for (const [name, value] of Object.entries(values)) {
    const key = /** @type {keyof State} */ (name);
    if (String(state[key]) === String(value)) continue;
    // @ts-ignore: the types of a name and its value agree
    state[key] = value;
    pending.add(name);
  }
  if (pending.size && !scheduled) {
    scheduled = true;
    requestAnimationFrame(flush);
  }
}
let scheduled = false;

function flush() {
  scheduled = false;
  const changed = new Set(pending);
  pending.clear();
  for (const listener of listeners) listener(state, changed);
  changed.delete("hover");
  if ([...changed].some((name) => !TYPED.includes(name))) writeAddress();
  else if (changed.size) writeLater();
}

/** Writes the state into the address when the changes pause. */
function writeLater() {
  clearTimeout(waiting);
  waiting = setTimeout(writeAddress, WRITE_EVERY);
}

/** Writes the state into the address: at once, or after many changes when they pause. */
function writeAddress() {
  const now = performance.now();
  writes = Math.min(MOST_WRITES, writes + (now - counted) / WRITE_EVERY);
  counted = now;
  if (writes < 1) return writeLater();
  clearTimeout(waiting);
  writes -= 1;
  const other = kept !== "" && kept !== textOf(state);
  if (other) kept = "";
  history[other && mark ? "pushState" : "replaceState"](mark, "", toAddress() || location.pathname + location.search);
}
let writes = MOST_WRITES; // that are allowed now
let counted = 0; // the time at which they were counted
let waiting = 0; // the timer of the next one

/**
 * Calls a function after every change, with the names of the properties that changed.
 * @param {(state: State, changed: Set<string>) => void} listener
 */
export function onChange(listener) {
  listeners.push(listener);
}

/** Returns the part of the state that differs from the initial state, as "#row=3&heads=2.3,all". */
export function toAddress() {
  const parts = Object.entries(state)
    .filter(([name, value]) => name !== "hover" && String(value) !== String(initial[/** @type {keyof State} */ (name)]))
    .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
  return parts.length ? `#${parts.join("&")}` : "";
}

/**
 * Parses the state of an address. Unknown names and invalid values are ignored.
 * @param {string} hash
 * @returns {Partial<State>}
 */
function fromAddress(hash) {
  /** @type {Record<string, unknown>} */
  const found = {};
  for (const [name, text] of new URLSearchParams(hash.slice(1))) {
    const key = /** @type {keyof State} */ (name);
    if (!Object.hasOwn(initial, key) || key === "hover") continue;
    if (CHOICES[key]?.includes(text) === false) continue;
    if (FLAGS.includes(key)) {
      if (text === "true" || text === "false") found[key] = text === "true";
    } else if (NUMBERS.includes(key)) {
      if (text !== "" && Number.isFinite(Number(text))) found[key] = Number(text);
    } else found[key] = key === "heads" ? text.split(",") : text;
  }
  return /** @type {Partial<State>} */ (found);
}
