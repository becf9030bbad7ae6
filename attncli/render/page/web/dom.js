// @ts-check
// Builds elements. Text from files and models enters the page through `textContent` only.

/** @typedef {string | Node | null | undefined | false} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns an element: element("button", {class: "token", onclick: f}, "the").
 * Attributes that begin with "on" are listeners; true sets an empty attribute, false and null leave it out.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, unknown>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/**
 * Returns an SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, unknown>} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(name, attributes = {}, ...children) {
  const made = /** @type {SVGElementTagNameMap[K]} */ (document.createElementNS(SVG, name));
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/**
 * Replaces the children of an element.
 * @param {Element} parent
 * @param {...Child} children
 */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * Replaces the options of a list, unless they are the same ones: an open list would close. The chosen value stays.
 * @param {HTMLSelectElement} list
 * @param {{value: string, label: string, kind?: string | null}[]} options
 */
export function fillOptions(list, options) {
  const key = JSON.stringify(options);
  if (list.dataset.options === key) return;
  list.dataset.options = key;
  const chosen = list.value;
  fill(list, ...options.map(({ value, label, kind }) => element("option", { value, "data-kind": kind, selected: value === chosen }, label)));
}

/**
 * Sets the text of an element, if it is another one. A live region repeats a text that is set again.
 * @param {Element} target
 * @param {string} shown
 */
export function write(target, shown) {
  if (target.textContent !== shown) target.textContent = shown;
}

/**
 * Builds the content of an element, unless it was built from the same values before.
 * @param {Element} target
 * @param {unknown[]} values that the content depends on, as JSON has them
 * @param {() => void} build
 */
export function rebuild(target, values, build) {
  const key = JSON.stringify(values);
  if (keys.get(target) === key) return;
  keys.set(target, key);
  build();
}

/**
 * Gives an element one child for each key. A child that was made for its key stays, with its focus and its state.
 * @param {Element} parent
 * @param {string[]} wanted
 * @param {(at: number) => Element} make
 */
export function fillByKey(parent, wanted, make) {
  wanted.forEach((key, at) => {
    const old = parent.children[at];
    if (old && keys.get(old) === key) return;
    const made = make(at);
    keys.set(made, key);
    if (old) old.replaceWith(made);
    else parent.append(made);
  });
  while (parent.children.length > wanted.length) parent.lastChild?.remove();
}
/** What an element was made from. @type {WeakMap<Element, string>} */
const keys = new WeakMap();

/**
 * Sets attributes and listeners of an element.
 * @param {Element} target
 * @param {Record<string, unknown>} attributes
 */
export function setAttributes(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on") && typeof value === "function") {
      target.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (value === false || value === null || value === undefined) {
      target.removeAttribute(name);
    } else {
      target.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

/**
 * @param {Element} parent
 * @param {Child[]} children
 */
function append(parent, children) {
  for (const child of children) {
    if (child) parent.append(child);
  }
}

/**
 * Calls a function that replaces the children of an element. If one of them has the focus, the new one with the same name
 * or data attributes gets it; without one, the first control does.
 * @param {HTMLElement} holder
 * @param {() => void} build
 */
export function keepFocus(holder, build) {
  const focused = document.activeElement;
  const inside = focused !== null && holder.contains(focused);
  const marks = inside ? [...focused.attributes].filter(({ name }) => name === "name" || name.startsWith("data-")) : [];
  build();
  if (!inside || document.activeElement === focused) return;
  const same = marks.map(({ name, value }) => `[${name}="${CSS.escape(value)}"]`).join("");
  const next = (same && holder.querySelector(`${same}:not(:disabled)`)) || holder.querySelector(":is(button, select, input):not(:disabled)");
  /** @type {HTMLElement | null} */ (next)?.focus({ preventScroll: true });
}

/**
 * Moves the focus among a group of elements with the arrow keys, Home and End. One element of the group is in the tab
 * order at a time. `columns` is the number of elements in a row of a grid; 0 stands for a single row or column. Call it
 * again after the elements of the group have been replaced.
 * @param {HTMLElement} group
 * @param {string} selector
 * @param {number} [columns]
 */
export function roving(group, selector, columns = 0) {
  const all = () => /** @type {HTMLElement[]} */ ([...group.querySelectorAll(selector)]);
  const items = all();
  const current = items.find((item) => item.getAttribute("aria-pressed") === "true") ?? items[0];
  for (const item of items) item.tabIndex = item === current ? 0 : -1;
  const known = rows.has(group);
  rows.set(group, columns || 1);
  if (known) return;
  group.addEventListener("keydown", (event) => {
    const items = all();
    const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (at < 0) return;
    const vertical = rows.get(group) ?? 1;
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + vertical, ArrowUp: at - vertical, Home: 0, End: items.length - 1 };
    const to = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    items[Math.max(0, Math.min(items.length - 1, to))]?.focus();
  });
  group.addEventListener("focusin", (event) => {
    for (const item of all()) item.tabIndex = item === event.target ? 0 : -1;
  });
}
/** The groups that move the focus, with the number of elements in a row. @type {WeakMap<HTMLElement, number>} */
const rows = new WeakMap();
