// @ts-check
// Starts the page: decodes the document, builds the views, and redraws them when the state changes.

import { createComparison } from "./comparison.js";
import { createCut } from "./cut.js";
import { decode, fromBase64 } from "./data.js";
import { element, fill, keepFocus, rebuild, roving } from "./dom.js";
import { languages, number, setLanguage, text } from "./format.js";
import { glossary } from "./glossary.js";
import { createLayers } from "./layers.js";
import { createLines } from "./lines.js";
import { createLive, Server } from "./live.js";
import { createMap } from "./map.js";
import { selectionName } from "./measure.js";
import { createNext } from "./next.js";
import { createOverview } from "./overview.js";
import { Page } from "./page.js";
import { saveButtons, showOnPaper } from "./picture.js";
import { change, fromStart, onChange, setInitial, startState, state, TYPED } from "./state.js";
import { createSteps } from "./steps.js";
import { createStrip } from "./strip.js";
import { createToolbar, labelled, select } from "./toolbar.js";

/** @typedef {import("./data.js").Doc} Doc */
/** @typedef {import("./data.js").Payload} Payload */
/** @typedef {{element: HTMLElement, update: (changed: Set<string>) => void, brief?: HTMLElement, picture?: () => SVGSVGElement}} View */

/** The views of the main area, in the order of their tabs. @type {[string, (page: Page) => View][]} */
const VIEWS = [
  ["lines", createLines],
  ["map", createMap],
  ["heads", createOverview],
  ["steps", createSteps],
  ["layers", createLayers],
];
/** The panels beside the views. @type {[string, (page: Page) => View][]} */
const PANELS = [
  ["cut", createCut],
  ["next", createNext],
];

/**
 * Returns the initial state of a payload, or of the live page before its first payload.
 * @param {Payload | null} payload
 * @returns {import("./state.js").State}
 */
function initialState(payload) {
  const [first, second] = payload?.documents.map(({ start }) => start) ?? [];
  return {
    view: "lines",
    part: first?.part ?? "",
    row: first?.row ?? 0,
    row2: second?.row ?? 0,
    hover: null,
    column: null,
    column2: null,
    heads: first ? first.heads.map(([layer, head]) => selectionName({ layer, head })) : ["all"],
    measure: first?.weights ?? "norm",
    words: first?.words ?? false,
    idle: true,
    common: false,
    tint: "share",
    sort: "layer",
    cut: "none",
    everywhere: true,
    token: null,
    temperature: first?.temperature ?? 1,
    top_k: first?.top_k ?? 0,
    top_p: first?.top_p ?? 1,
    min_p: first?.min_p ?? 0,
    step: 1,
    theme: "auto",
    language: systemLanguage(),
    text: "",
    target: "",
    model: "",
  };
}

/** The language of the browser, if the page has it. */
function systemLanguage() {
  return navigator.language.startsWith("de") ? "de" : "en";
}

/** What is on the page now. @type {{payload: Payload, pages: Page[], parts: (((changed: Set<string>) => void) & {element: HTMLElement, print?: (starts: boolean) => void})[]} | null} */
let current = null;

/**
 * Shows a payload. The state stays as it is. Another payload of the live page takes the place of the one before, so the
 * elements stay, with what is open and scrolled in them.
 * @param {Payload} payload
 * @param {Server | null} live
 */
function show(payload, live) {
  if (current) {
    current.payload = payload;
    current.pages.forEach((page, at) => (page.doc = payload.documents[at]));
    return update(new Set(["all"]));
  }
  const pages = payload.documents.map((doc, at) => new Page(doc, at, live));
  const texts = pages.map((page) => createText(page, pages.length));
  const comparison = payload.comparison ? createComparison(payload) : null;
  const parts = comparison ? [...texts, Object.assign(comparison.update, { element: comparison.element })] : texts;
  current = { payload, pages, parts };
  const several = texts.length > 1;
  fill(element_("texts"), several && texts[0].controls, element("div", { class: several ? "two" : "" }, ...texts.map((part) => part.element)), comparison && comparison.element);
  update(new Set(["all"]));
  document.body.dataset.ready = "true";
  performance.mark("drawn");
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** Shows the chosen colors; the document gets the theme of the system if none is chosen. */
function showTheme() {
  document.documentElement.dataset.theme = state.theme !== "auto" ? state.theme : DARK.matches ? "dark" : "light";
}

/** @param {Set<string>} changed */
function update(changed) {
  if (!current) return;
  // Elements that are replaced get no event when the pointer leaves them.
  if (["all", "words", "part"].some((name) => changed.has(name))) state.hover = null;
  if (changed.has("language")) setLanguage(state.language);
  if (changed.has("theme") || changed.has("all")) showTheme();
  if (changed.has("language") || changed.has("all")) header(current.payload);
  const settings = element_("settings");
  if (changed.has("language") || !settings.firstChild) keepFocus(settings, () => fill(settings, ...pageSettings()));
  for (const part of current.parts) part(changed);
}

/**
 * Shows pictures in light colors while the page is printed.
 * @param {boolean} starts
 */
function print(starts) {
  showTheme();
  if (starts) document.documentElement.dataset.theme = "light";
  for (const part of current?.parts ?? []) part.print?.(starts);
}

/** @param {Payload} payload */
function showFile(payload) {
  startState(initialState(payload));
  setLanguage(state.language);
  show(payload, null);
}

function startLive() {
  startState(initialState(null), () => restore());
  setLanguage(state.language);
  showTheme();
  const server = new Server();
  /** @type {Payload | null} */
  let before = null;
  const restore = createLive(element_("live"), server, (payload) => {
    follow(before, payload);
    before = payload;
    show(payload, server);
  });
}

/**
 * Changes the state for the next document of the live page: the attention, the heads and the row that it starts with,
 * unless the ones that are shown exist in it. A row other than the last one stays. The temperature and the filters are
 * those of the model, unless they were changed.
 * @param {Payload | null} before
 * @param {Payload} payload
 */
function follow(before, { documents }) {
  const { start, attentions } = documents[0];
  const other = !before || before.documents[0].model !== documents[0].model;
  const asked = before ? {} : fromStart();
  /** @type {Partial<import("./state.js").State>} */
  const values = {};
  if (!attentions.some(({ part }) => part === state.part) || (other && before)) values.part = start.part;
  if (other && !("heads" in asked)) values.heads = start.heads.map(([layer, head]) => selectionName({ layer, head }));
  const last = before && state.row === before.documents[0].start.row;
  if ((last || other) && !("row" in asked)) values.row = start.row;
  if (other && before) Object.assign(values, { column: null, cut: "none", token: null }); // another model has other ids
  Object.assign(state, values);
  const { temperature, top_k, top_p, min_p } = start;
  if (other) setInitial({ temperature, top_k, top_p, min_p });
}

/** @param {string} id */
function element_(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * Fills the header with the model and its shape, and the footer with what is rounded and what was left out.
 * @param {Payload} payload
 */
function header({ documents, tool }) {
  const [doc] = documents;
  const { layers, heads } = doc.attentions[doc.attentions.length - 1];
  document.title = `${doc.model} · attncli`;
  const shape = text("model.shape", { layers, heads, parameters: number(doc.parameters), tokens: documents.map(({ tokens }) => number(tokens.length, 15)).join(" + "), tool });
  const model = element_("model");
  rebuild(model, [doc.model, shape], () => fill(model, element("h1", {}, doc.model), element("p", { class: "note" }, shape)));
  const error = number(100 * Math.max(...documents.flatMap(({ attentions }) => attentions.map(({ raw }) => raw.error))), 1);
  const limits = documents.flatMap((each) => each.limits.map((limit) => text(`limit.${limit.code}`, { ...limit, part: text(`part.${limit.part}`) })));
  const sentences = [text("rounding", { error }), ...new Set(limits)];
  const holder = element_("limits");
  rebuild(holder, sentences, () => fill(holder, ...sentences.map((sentence) => element("p", { class: "note" }, sentence))));
}

/** Returns the glossary, and the choices of colors and language. */
function pageSettings() {
  const colors = select("theme", ["auto", "light", "dark", "contrast"].map((name) => [name, text(`theme.${name}`)]));
  const language = select("language", languages().map((name) => [name, text(`language.${name}`)]));
  return [...glossary(), labelled("theme", colors), labelled("language", language)];
}

/**
 * Builds the strip, the toolbar, the tabs and the panels of one text. The views are built when they are first shown.
 * The controls of the first of two texts are for both.
 * @param {Page} page
 * @param {number} count the number of texts
 */
function createText(page, count) {
  const strip = createStrip(page);
  const toolbar = createToolbar(page);
  const tabs = element("div", { class: "tabs", role: "group" });
  const body = element("div", { class: "view" });
  const paper = element("div", { class: "on-paper" });
  const save = element("div", {});
  const panels = PANELS.map(([, create]) => create(page));
  /** @type {Map<string, View>} */
  const built = new Map();
  const controls = element("div", { class: "controls" }, tabs, toolbar.element);
  const side = element("div", { class: "panels" }, ...panels.map((panel) => panel.element));
  const whole = element(
    "section",
    { class: "text" },
    strip.element,
    element("div", { class: "split" }, element("div", { class: "main" }, count === 1 && controls, paper, body, save, ...panels.map(({ brief }) => brief)), side),
  );
  new ResizeObserver(() => whole.style.setProperty("--strip", `${strip.element.offsetHeight}px`)).observe(strip.element);
  const update = (/** @type {Set<string>} */ changed) => {
    const [name, create] = VIEWS.find(([each]) => each === state.view) ?? VIEWS[0];
    let view = built.get(name);
    const fresh = !view;
    if (!view) built.set(name, (view = create(page)));
    if (changed.has("all") || changed.has("view") || changed.has("language")) {
      const inside = body.contains(document.activeElement);
      whole.setAttribute("aria-label", count > 1 ? "AB"[page.index] : text("strip.text"));
      fillTabs(tabs, name);
      if (view.element.parentElement !== body) fill(body, view.element);
      const { picture } = view;
      rebuild(save, [name, state.language], () => fill(save, picture ? saveButtons(page, name, picture) : element("p", { class: "note" }, text("save.none"))));
      if (inside && changed.has("view")) /** @type {HTMLElement | null} */ (document.querySelector('.tabs [aria-pressed="true"]'))?.focus();
    }
    strip.update(changed);
    toolbar.update(changed);
    view.update(fresh || changed.has("view") ? new Set(["all", "view"]) : changed);
    for (const panel of panels) panel.update(changed);
  };
  const print = (/** @type {boolean} */ starts) => showOnPaper(paper, page, state.view, starts ? built.get(state.view)?.picture : null);
  return Object.assign(update, { element: whole, controls, print });
}

/**
 * @param {HTMLElement} tabs
 * @param {string} current
 */
function fillTabs(tabs, current) {
  tabs.setAttribute("aria-label", text("views"));
  const buttons = VIEWS.map(([name]) => element("button", { type: "button", "data-view": name, "aria-pressed": String(name === current), title: text(`view.${name}.about`), onclick: () => change({ view: name }) }, text(`view.${name}`)));
  rebuild(tabs, [current, state.language], () => {
    keepFocus(tabs, () => fill(tabs, ...buttons));
    roving(tabs, "button");
  });
}

const stored = /** @type {HTMLElement} */ (document.getElementById("data")).textContent ?? "";
setLanguage(systemLanguage());
onChange((_, changed) => [...changed].every((name) => TYPED.includes(name)) || update(changed));
DARK.addEventListener("change", showTheme);
window.addEventListener("beforeprint", () => print(true));
window.addEventListener("afterprint", () => print(false));
if (stored.trim()) {
  decode(fromBase64(stored.trim())).then(showFile, () => {
    fill(element_("texts"), element("p", { role: "alert" }, text("damaged")));
  });
} else {
  startLive();
}
