// @ts-check
// The controls above the pictures: which attention, which heads, which measure, and how they are shown.

import { element, fill, keepFocus, rebuild, roving } from "./dom.js";
import { text } from "./format.js";
import { headName } from "./lines.js";
import { selectionName } from "./measure.js";
import { MOST_CHOSEN } from "./page.js";
import { change, state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */
/** @typedef {import("./state.js").State} State */

/**
 * Returns a control with its name, and a button that shows the longer explanation of the text `help.NAME`.
 * @param {string} name
 * @param {HTMLElement} control
 * @param {string} [help] the key of the explanation
 */
export function labelled(name, control, help) {
  const label = element("span", { class: "control-name" }, text(name));
  if (!help) return element("label", { class: "control" }, label, control);
  return element("div", { class: "control" }, element("label", {}, label, control), ...explanation(name, help));
}

/**
 * Returns a button and the explanation that it shows and hides. The explanation of a control stays open when the control
 * is built again.
 * @param {string} name the key of the name of the control
 * @param {string} help the key of the explanation
 */
export function explanation(name, help) {
  const more = element("p", { class: "help", hidden: !opened.has(name) }, text(help));
  const toggle = () => {
    more.hidden = !more.hidden;
    if (more.hidden) opened.delete(name);
    else opened.add(name);
    button.setAttribute("aria-expanded", String(!more.hidden));
  };
  const button = element("button", { type: "button", class: "ask", "data-help": name, "aria-expanded": String(!more.hidden), "aria-label": text("help.about", { name: text(name) }), onclick: toggle }, "?");
  return [button, more];
}
/** The controls whose explanation is open. @type {Set<string>} */
const opened = new Set();

/**
 * Returns a list of choices.
 * @param {keyof State} name
 * @param {[string, string][]} choices value and label
 */
export function select(name, choices) {
  return element(
    "select",
    { name, onchange: (/** @type {Event} */ event) => change({ [name]: /** @type {HTMLSelectElement} */ (event.target).value }) },
    ...choices.map(([value, label]) => element("option", { value, selected: String(state[name]) === value }, label)),
  );
}

/**
 * Returns a box to tick.
 * @param {keyof State} name
 * @param {string} label the key of its text
 */
export function tick(name, label) {
  const box = element("input", { type: "checkbox", name, onchange: () => change({ [name]: box.checked }) });
  box.checked = Boolean(state[name]);
  return element("label", { class: "control tick" }, box, element("span", { class: "control-name" }, text(label)));
}

/**
 * @param {Page} page
 * @returns {{element: HTMLElement, update: (changed: Set<string>) => void}}
 */
export function createToolbar(page) {
  const holder = element("div", { class: "toolbar", role: "group" });
  const update = (/** @type {Set<string>} */ changed) => {
    if (["all", "view", "part", "heads", "language", "measure", "idle", "tint"].some((name) => changed.has(name))) rebuild(holder, shownBy(page), () => keepFocus(holder, () => build(page, holder)));
  };
  return { element: holder, update };
}

/**
 * Returns everything that the controls depend on.
 * @param {Page} page
 */
function shownBy(page) {
  const { doc, attention, chosen, causalAlone } = page;
  const { language, measure, tint, words, idle, common } = state;
  const shapes = doc.attentions.map(({ part, layers, heads, rollout }) => [part, layers, heads, !!rollout]);
  return [shapes, !!doc.predictions, attention.part, chosen.map(({ name }) => name), causalAlone, comparable(page), language, measure, tint, words, idle, common];
}

/**
 * Whether several heads are shown, which may share one scale.
 * @param {Page} page
 */
function comparable({ pictured }) {
  return pictured.length > 1 || state.view === "heads";
}

/**
 * @param {Page} page
 * @param {HTMLElement} holder
 */
function build(page, holder) {
  const { doc, attention } = page;
  holder.setAttribute("aria-label", text("toolbar"));
  const measures = ["norm", "raw", ...(attention.rollout ? ["rollout"] : [])];
  const tints = ["share", ...(doc.predictions ? ["surprise"] : []), "none"];
  fill(
    holder,
    doc.attentions.length > 1 && labelled("part", select("part", doc.attentions.map(({ part }) => [part, text(`part.${part}`)])), "help.part"),
    labelled("measure", select("measure", measures.map((name) => [name, text(`measure.${name}`)])), `help.${page.measure}`),
    labelled("tint", select("tint", tints.map((name) => [name, text(`tint.${name}`)])), "help.tint"),
    tick("words", "words"),
    tick("idle", page.causalAlone ? "idle.first" : "idle.special"),
    comparable(page) && tick("common", "common"),
    page.measure === "rollout" ? element("p", { class: "note" }, text("rollout.note")) : chooser(page),
  );
}

/**
 * Returns the grid of heads: a button for every head, for every layer, and for all heads together.
 * @param {Page} page
 */
function chooser(page) {
  const { attention, chosen } = page;
  const colors = new Map(chosen.map(({ name, color }) => [name, color]));
  const button = (/** @type {string} */ name, /** @type {string} */ label) => {
    const color = colors.get(name);
    const made = element("button", { type: "button", class: "head-button", "data-key": name, "aria-pressed": String(color !== undefined), "aria-label": headName(name), onclick: (/** @type {MouseEvent} */ event) => choose(page, name, event.shiftKey || event.ctrlKey || event.metaKey) }, label);
    if (color) made.style.setProperty("--color", color);
    return made;
  };
  const rows = [...Array(attention.layers).keys()].map((layer) => {
    const heads = [...Array(attention.heads).keys()].map((head) => button(selectionName({ layer, head }), `${layer}.${head}`));
    return element("div", { class: "head-row" }, button(`L${layer}`, text("heads.short", { layer })), ...heads);
  });
  const grid = element("div", { class: "chooser", role: "group", "aria-label": text("heads") }, button("all", text("heads.all")), ...rows);
  roving(grid, "button", attention.heads + 1);
  const summary = element("summary", {}, text("heads.chosen", { heads: chosen.map(({ name }) => headName(name)).join(", ") }));
  const details = element("details", { class: "heads-chosen", open: chooserOpen }, summary, element("p", { class: "note" }, text("heads.several")), grid);
  details.addEventListener("toggle", () => (chooserOpen = details.open));
  return details;
}
let chooserOpen = false;

/**
 * Chooses a selection alone, or adds it to the chosen ones or removes it.
 * @param {Page} page
 * @param {string} name
 * @param {boolean} more whether the other selections are kept
 */
export function choose(page, name, more) {
  const names = page.chosen.map((each) => each.name);
  if (!more) return change({ heads: [name] });
  const left = names.includes(name) ? names.filter((each) => each !== name) : [...names, name];
  change({ heads: left.length ? left.slice(-MOST_CHOSEN) : ["all"] });
}
