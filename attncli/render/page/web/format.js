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
  language = chosen in LANGUAGES ? chosen : "en";
  document.documentElement.lang = language;
}

/** Returns the languages that the page has. */
export function languages() {
  return Object.keys(LANGUAGES);
}

/**
 * Returns an interface text, with {name} replaced by the value of that name.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 */
export function text(key, values = {}) {
  const found = LANGUAGES[language][key] ?? LANGUAGES.en[key] ?? key;
  return found.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
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
 * Formats a share as a percentage with `digits` decimals.
 * @param {number} share
 * @param {number} digits
 */
export function percentOf(share, digits) {
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(share);
}

/**
 * Formats a number with `digits` significant digits.
 * @param {number} value
 * @param {number} [digits]
 */
export function number(value, digits = 3) {
  return new Intl.NumberFormat(language, { maximumSignificantDigits: digits }).format(value);
}

/**
 * Formats a number with a fixed number of decimals.
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}
