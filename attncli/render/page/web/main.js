// @ts-check
// Starts the page: decodes the document, builds the views, and redraws them when the state changes.

import { decode, fromBase64 } from "./data.js";
import { element, fill, roving } from "./dom.js";
import { languages, number, setLanguage, text } from "./format.js";
import { createLines } from "./lines.js";
import { selectionName } from "./measure.js";
import { Page } from "./page.js";
import { onChange, startState, state, change } from "./state.js";
import { createStrip } from "./strip.js";
import { createToolbar, select } from "./toolbar.js";

/** @typedef {import("./data.js").Doc} Doc */
/** @typedef {import("./data.js").Payload} Payload */
/** @typedef {{element: HTMLElement, update: (changed: Set<string>) => void, picture?: () => SVGSVGElement}} View */

/** The views of the main area, in the order of their tabs. @type {[string, (page: Page) => View][]} */
const VIEWS = [["lines", createLines]];
/** The panels beside the views. @type {[string, (page: Page) => View][]} */
const PANELS = [];

/**
 * Returns the initial state of a payload.
 * @param {Payload} payload
 * @returns {import("./state.js").State}
 */
function initialState({ documents }) {
  const [first, second] = documents;
  const [head] = first.start.heads;
  return {
    view: "lines",
    part: first.start.part,
    row: first.start.row,
    row2: second ? second.start.row : 0,
    hover: null,
    column: null,
    heads: [selectionName({ layer: head[0], head: head[1] })],
    measure: "norm",
    words: false,
    idle: true,
    common: false,
    tint: "share",
    sort: "layer",
    cut: "none",
    everywhere: true,
    temperature: first.start.temperature,
    top_k: 0,
    top_p: 1,
    min_p: 0,
    step: 1,
    theme: "auto",
    language: navigator.language.startsWith("de") ? "de" : "en",
  };
}

/**
 * Shows a payload.
 * @param {Payload} payload
 */
function show(payload) {
  startState(initialState(payload));
  setLanguage(state.language);
  const pages = payload.documents.map((doc, at) => new Page(doc, at));
  const parts = pages.map((page) => createText(page));
  const update = (/** @type {Set<string>} */ changed) => {
    if (changed.has("language")) setLanguage(state.language);
    document.documentElement.dataset.theme = state.theme;
    if (changed.has("language") || changed.has("all")) header(payload);
    for (const part of parts) part(changed);
  };
  fill(element_("texts"), ...parts.map((part) => part.element));
  onChange((_, changed) => update(changed));
  update(new Set(["all"]));
  document.body.dataset.ready = "true";
}

/** @param {string} id */
function element_(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * Fills the header: the model, its shape, the settings of the page.
 * @param {Payload} payload
 */
function header({ documents, tool }) {
  const [doc] = documents;
  const { layers, heads } = doc.attentions[doc.attentions.length - 1];
  document.title = `${doc.model} · attncli`;
  fill(
    element_("model"),
    element("h1", {}, doc.model),
    element("p", { class: "note" }, text("model.shape", { layers, heads, parameters: number(doc.parameters), tokens: doc.tokens.length, tool })),
  );
  fill(
    element_("settings"),
    element("label", {}, element("span", { class: "control-name" }, text("theme")), select("theme", ["auto", "light", "dark", "contrast"].map((name) => [name, text(`theme.${name}`)]))),
    element("label", {}, element("span", { class: "control-name" }, text("language")), select("language", languages().map((name) => [name, text(`language.${name}`)]))),
  );
  fill(element_("limits"), ...doc.limits.map((limit) => element("p", { class: "note" }, text(`limit.${limit.code}`, { ...limit, part: text(`part.${limit.part}`) }))));
}

/**
 * Builds the strip, the toolbar, the tabs and the panels of one text. The views are built when they are first shown.
 * @param {Page} page
 */
function createText(page) {
  const strip = createStrip(page);
  const toolbar = createToolbar(page);
  const tabs = element("div", { class: "tabs", role: "group" });
  const body = element("div", { class: "view" });
  const panels = PANELS.map(([, create]) => create(page));
  /** @type {Map<string, View>} */
  const built = new Map();
  const side = element("div", { class: "panels" }, ...panels.map((panel) => panel.element));
  const whole = element("section", { class: "text" }, strip.element, element("div", { class: "split" }, element("div", { class: "main" }, tabs, toolbar.element, body), side));
  const update = (/** @type {Set<string>} */ changed) => {
    const [name, create] = VIEWS.find(([each]) => each === state.view) ?? VIEWS[0];
    let view = built.get(name);
    const fresh = !view;
    if (!view) built.set(name, (view = create(page)));
    if (changed.has("all") || changed.has("view") || changed.has("language")) {
      fillTabs(tabs, name);
      fill(body, view.element);
    }
    strip.update(changed);
    toolbar.update(changed);
    view.update(fresh || changed.has("view") ? new Set(["all"]) : changed);
    for (const panel of panels) panel.update(changed);
  };
  return Object.assign(update, { element: whole });
}

/**
 * @param {HTMLElement} tabs
 * @param {string} current
 */
function fillTabs(tabs, current) {
  const focused = tabs.contains(document.activeElement);
  tabs.setAttribute("aria-label", text("views"));
  fill(tabs, ...VIEWS.map(([name]) => element("button", { type: "button", "data-view": name, "aria-pressed": String(name === current), title: text(`view.${name}.about`), onclick: () => change({ view: name }) }, text(`view.${name}`))));
  roving(tabs, "button");
  if (focused) /** @type {HTMLElement | null} */ (tabs.querySelector('[aria-pressed="true"]'))?.focus();
}

const stored = /** @type {HTMLElement} */ (document.getElementById("data")).textContent ?? "";
decode(fromBase64(stored.trim())).then(show, () => {
  fill(element_("texts"), element("p", { role: "alert" }, text("damaged")));
});
