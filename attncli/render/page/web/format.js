// @ts-check
// Formats numbers and words in the chosen language.

/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = window.TEXTS;
let language = "en";

/**
 * Chooses the language of all texts.
 * @param {string} chosen
 */
export function setLanguage(chosen) {
  language = Object.hasOwn(LANGUAGES, chosen) ? chosen : "en";
  document.documentElement.lang = language;
}

/** Returns the languages that the page has. */
export function languages() {
  return Object.keys(LANGUAGES);
}

/**
 * Returns an interface text, with {name} replaced by the value of that name. Right-to-left values are isolated, and
 * numbers get the separators of the language; an index or a number with decimals comes as a string.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 */
export function text(key, values = {}) {
  const found = LANGUAGES[language][key] ?? LANGUAGES.en[key] ?? key;
  const shown = (/** @type {string | number} */ value) => (typeof value === "number" ? number(value, 15) : isolated(value));
  return found.replace(/\{(\w+)\}/g, (_, name) => shown(values[name] ?? ""));
}

/**
 * Returns a label that leaves the order of the text around it as it is: right-to-left letters are isolated.
 * @param {string} label
 */
export function isolated(label) {
  return RIGHT_TO_LEFT.test(label) ? `\u2068${label}\u2069` : label;
}
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * Names a token or a word: "␣cat [2]".
 * @param {{label: string, index: number}} unit
 */
export function unitName({ label, index }) {
  return `${isolated(label)} [${index}]`;
}

/**
 * Formats a share as a percentage with few digits: 41%, 7.3%, 0.52%, below 0.01%.
 * @param {number} share
 */
export function percent(share) {
  if (share > 0 && share < 0.00005) return `<${percentOf(0.0001, 2)}`;
  return percentOf(share, share >= 0.0995 ? 0 : share >= 0.00995 ? 1 : 2);
}

/**
 * Formats two shares, with more digits if they would look equal.
 * @param {number} before
 * @param {number} after
 */
export function percents(before, after) {
  const shown = [percent(before), percent(after)];
  return shown[0] === shown[1] ? [percentOf(before, 2), percentOf(after, 2)] : shown;
}

/**
 * Formats a share as a percentage with `digits` decimals.
 * @param {number} share
 * @param {number} digits
 */
export function percentOf(share, digits) {
  return formatter("percent", digits, digits).format(share);
}

/**
 * Formats a number with `digits` significant digits.
 * @param {number} value
 * @param {number} [digits]
 */
export function number(value, digits = 3) {
  return formatter("decimal", digits, null).format(value);
}

/**
 * Formats a number with a fixed number of decimals.
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  return formatter("decimal", digits, digits).format(Number(value.toFixed(digits)) + 0); // + 0: what rounds to 0 has no sign
}

/**
 * Returns a formatter, which is made once, because making one takes longer than formatting a hundred numbers.
 * @param {"percent" | "decimal"} style
 * @param {number} most the significant digits, or the decimals if `decimals` is given
 * @param {number | null} decimals
 * @returns {Intl.NumberFormat}
 */
function formatter(style, most, decimals) {
  const key = `${language} ${style} ${most} ${decimals}`;
  let made = formatters.get(key);
  if (!made) {
    const digits = decimals === null ? { maximumSignificantDigits: most } : { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    formatters.set(key, (made = new Intl.NumberFormat(language, { style, ...digits })));
  }
  return made;
}
/** @type {Map<string, Intl.NumberFormat>} */
const formatters = new Map();
