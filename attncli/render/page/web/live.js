// @ts-check
// The live page: a text that is read while it is typed, and a model that writes.

import { createCurves } from "./curves.js";
import { decode } from "./data.js";
import { element, fill, fillOptions, write } from "./dom.js";
import { fixed, percent, text } from "./format.js";
import { change, keepText, onChange, state } from "./state.js";

/** @typedef {import("./data.js").Payload} Payload */
/** @typedef {{id: number, label: string, model: number, drawn: number}} Chance */
/** @typedef {{token: {id: number, label: string}, step: number, ends: boolean, written: string, uniform: number | null, left: number, chances: Chance[], settings: Record<string, number>}} Drawn */
/** @typedef {{name: string, kind: string | null, loaded: boolean}} Listed */

const MOST_WRITTEN = 200; // tokens of one press of "Write"
const SHOWN_CHANCES = 5;
const PAUSE = 700; // milliseconds without a new text, after which its cuts are measured

/** Sends requests to the server of the page. A newer request of a kind cancels the older one. */
export class Server {
  constructor() {
    this.client = crypto.getRandomValues(new Uint32Array(4)).join("-");
    this.number = 0;
    /** @type {Map<string, AbortController>} */
    this.running = new Map();
    /** @type {Record<string, unknown>} the text and the model of the newest document */
    this.read = {};
  }

  /**
   * Sends a request, and returns its response. Rejects with the message of the server, or with an AbortError if a newer
   * request of the same kind was sent.
   * @param {string} kind page, cut or next
   * @param {Record<string, unknown>} fields
   */
  async post(kind, fields) {
    this.cancel(kind);
    const controller = new AbortController();
    this.running.set(kind, controller);
    const body = JSON.stringify({ ...fields, client: this.client, number: this.number++ });
    const response = await fetch(`/api/${kind}`, { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: controller.signal });
    return checked(response);
  }

  /**
   * Cancels the request of a kind that is running.
   * @param {string} kind
   */
  cancel(kind) {
    this.running.get(kind)?.abort();
  }

  /**
   * @param {string} path
   * @returns {Promise<any>}
   */
  async get(path) {
    return (await checked(await fetch(`/api/${path}`))).json();
  }

  /**
   * Returns the document of the text. Rejects with an AbortError if a newer one was asked for, also during decoding.
   * @param {boolean} cuts whether cuts are measured as well, which takes longer; otherwise only what the chosen view shows
   * @param {number | null} [row] the row around which they are measured; null for the one with which the page starts
   * @returns {Promise<Payload>}
   */
  async page(cuts, row = null) {
    const read = asked();
    const answer = this.post("page", { ...read, cuts, row, lens: cuts || state.view === "layers", steps: cuts || state.view === "steps" });
    const signal = this.running.get("page")?.signal;
    const payload = await decode(await (await answer).arrayBuffer());
    signal?.throwIfAborted();
    this.read = read;
    return payload;
  }

  /**
   * Returns the effect of a cut on the prediction of a row, in the newest document. The text may be a newer one.
   * @param {Record<string, unknown>} cut
   * @returns {Promise<any>}
   */
  async cut(cut) {
    return (await this.post("cut", { ...this.read, ...cut })).json();
  }
}

/** Returns the text and the model that are asked for. */
function asked() {
  return { text: state.text, model: state.model || null, target: state.target || null };
}

/**
 * Returns a response, or throws the message of the server.
 * @param {Response} response
 */
async function checked(response) {
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: { message: `${response.status} ${response.statusText}`, hint: "" } }));
  throw new Error([error.message, error.hint].filter(Boolean).join(" "));
}

/** The controls of the live page: the text, the model, what is drawn. */
class Live {
  /**
   * @param {Server} server
   * @param {(payload: Payload) => void} show
   */
  constructor(server, show) {
    this.server = server;
    this.show = show;
    /** @type {number[]} the tokens that were drawn since the text was typed */
    this.ids = [];
    /** @type {Drawn[]} the newest first */
    this.found = [];
    this.typed = state.text;
    this.typedTarget = state.target; // the beginning of the translation, without the drawn tokens
    this.first = ""; // the name of the model that the server was started with
    this.later = 0; // the timer of the request for cuts
    this.brief = true; // whether the document has only what the view showed that it was asked for
    /** @type {import("./data.js").Doc | null} the document that is shown */
    this.document = null;
    this.status = element("p", { class: "note", role: "status" });
    this.area = element("textarea", { id: "live-text", rows: 2, spellcheck: "false", maxlength: 100000 });
    this.area.value = state.text;
    this.target = element("input", { type: "text", name: "target", value: state.target });
    this.targetLabel = element("label", { class: "live-target", hidden: true }, element("span", { class: "control-name", "data-name": "target" }), this.target);
    this.models = element("select", { name: "model" });
    this.drawn = element("ol", { class: "drawn" });
    this.writing = createWriting(() => draw(this), this.status);
    this.curves = createCurves(server);
  }

  /** Whether the chosen model translates. */
  get translates() {
    return this.models.selectedOptions[0]?.dataset.kind === "encoder-decoder";
  }
}

/**
 * Builds the controls of the live page, and asks for the first document. Returns a function that shows the text and the
 * model of the state, after the browser went back to them.
 * @param {HTMLElement} holder
 * @param {Server} server
 * @param {(payload: Payload) => void} show
 */
export function createLive(holder, server, show) {
  const live = new Live(server, show);
  const { area, target, targetLabel, models, writing, status, drawn, curves } = live;
  area.addEventListener("input", (event) => {
    edited(live);
    if (/** @type {InputEvent} */ (event).inputType === "insertLineBreak") keepText();
  });
  target.addEventListener("input", () => edited(live));
  for (const field of [area, target]) field.addEventListener("change", keepText);
  models.addEventListener("focus", () => server.get("models").then((listed) => listModels(live, listed)).catch(() => {})); // keeps the list
  models.addEventListener("change", () => {
    keepText();
    change({ model: models.value });
    target.value = "";
    targetLabel.hidden = !live.translates;
    edited(live);
  });
  const name = (/** @type {string} */ key) => element("span", { class: "control-name", "data-name": key });
  const row = element("div", { class: "toolbar" }, element("label", {}, name("model"), models), writing.element);
  fill(holder, element("label", { class: "live-text" }, name("text"), area), targetLabel, row, status, drawn, curves.element);
  const translate = () => {
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll("[data-name]"))) fill(each, text(`live.${each.dataset.name}`));
    fill(drawn, ...live.found.map(drawnToken));
    writing.name();
    curves.name();
  };
  translate();
  onChange((_, changed) => {
    if (changed.has("language")) translate();
    // While the model writes, the next document has what the view shows.
    if (changed.has("view") && live.brief && !writing.runs() && ["layers", "steps"].includes(state.view)) report(live, refresh(live));
    else if (changed.has("row") && lacksCuts(live)) restLater(live);
  });
  report(live, server.get("models").then((listed) => begin(live, listed)));
  return () => {
    models.value = state.model || live.first;
    targetLabel.hidden = !live.translates;
    area.value = state.text || text(live.translates ? "live.example.translate" : "live.example");
    target.value = state.target;
    edited(live);
  };
}

/**
 * Shows what a request says, or its error. Then the pictures of the text before it are dimmed.
 * @param {Live} live
 * @param {Promise<string | void>} request
 */
function report({ status }, request) {
  const say = (/** @type {string} */ said) => {
    write(status, said);
    document.getElementById("texts")?.classList.toggle("stale", said !== "");
  };
  request.then(
    (said) => say(said || ""),
    (error) => error.name === "AbortError" || say(String(error.message ?? error)),
  );
}

/**
 * Lists the models. A model from another folder than those that are listed comes first.
 * @param {Live} live
 * @param {{first: string, models: Listed[]}} listed
 */
function listModels({ models }, { first, models: listed }) {
  const known = listed.some((one) => one.name === first) ? listed : [{ name: first, kind: null, loaded: true }, ...listed];
  fillOptions(models, known.map(({ name, kind }) => ({ value: name, label: name, kind })));
}

/**
 * Lists the models, and shows the document of the first text.
 * @param {Live} live
 * @param {{first: string, models: Listed[]}} listed
 */
function begin(live, listed) {
  const { models, area, targetLabel } = live;
  listModels(live, listed);
  models.value = state.model || listed.first;
  live.first = listed.first;
  targetLabel.hidden = !live.translates;
  if (!state.text) {
    area.value = text(live.translates ? "live.example.translate" : "live.example");
    live.typed = area.value;
    state.text = area.value;
  }
  return refresh(live);
}

/**
 * Shows the document of the text; returns what the user must do first, if there is something.
 * @param {Live} live
 */
async function refresh(live) {
  const { server, show, models, targetLabel } = live;
  clearTimeout(live.later); // a request for cuts would cancel this one
  if (!state.text.trim()) {
    server.cancel("page");
    return text("live.empty");
  }
  const start = performance.now();
  const payload = await server.page(false);
  // The list of models does not know the kind of a model from another folder.
  if (models.selectedOptions[0]) models.selectedOptions[0].dataset.kind = payload.documents[0].kind;
  targetLabel.hidden = !live.translates;
  live.brief = true;
  live.document = payload.documents[0];
  show(payload);
  document.body.dataset.milliseconds = String(Math.round(performance.now() - start));
  restLater(live);
}

/**
 * Asks for the whole document when nothing changes for a while.
 * @param {Live} live
 */
function restLater(live) {
  clearTimeout(live.later);
  live.later = setTimeout(() => report(live, rest(live)), PAUSE);
}

/**
 * Shows the whole document of a text that rests: with its cuts, and with what the other views show.
 * @param {Live} live
 */
async function rest(live) {
  keepText();
  const row = focusOf(live);
  const payload = await live.server.page(true, row);
  Object.assign(payload.documents[0].start, live.document?.start); // whatever row they are measured around
  live.brief = false;
  live.document = payload.documents[0];
  live.show(payload);
  if (focusOf(live) !== row && lacksCuts(live)) restLater(live); // another row was locked meanwhile
}

/**
 * Returns the row around which cuts are measured: the locked one, if the page does not start with it. Cuts in the encoder
 * of a model that translates do not depend on its row.
 * @param {Live} live
 */
function focusOf({ document }) {
  const { attentions, start } = /** @type {import("./data.js").Doc} */ (document);
  const { part, rows } = attentions.find((each) => each.part === state.part) ?? attentions[attentions.length - 1];
  const row = Math.min(state.row, rows.length - 1);
  return row === start.row || (part === "encoder" && attentions.length > 1) ? null : row;
}

/**
 * Whether cuts of edges in single heads are missing for the locked row of a text that rests.
 * @param {Live} live
 */
function lacksCuts(live) {
  const row = live.brief || !live.document ? null : focusOf(live);
  return row !== null && !live.document?.attentions.some(({ part, cuts }) => part === state.part && cuts?.head_edges?.rows.includes(row));
}

/**
 * Forgets the drawn tokens, because the text is now another one.
 * @param {Live} live
 */
function edited(live) {
  const { writing, server, area, target, drawn } = live;
  writing.stop();
  server.cancel("next");
  live.ids = [];
  live.found = [];
  live.typed = area.value;
  live.typedTarget = target.value;
  fill(drawn);
  change({ text: area.value, target: target.value });
  report(live, refresh(live));
}

/**
 * Draws a token, and shows the text with it; returns whether the text goes on.
 * @param {Live} live
 */
async function draw(live) {
  const { server, writing, area, target, typed, typedTarget, ids } = live;
  const { temperature, top_k, top_p, min_p } = state;
  if (!ids.length) keepText();
  const response = await server.post("next", { ...asked(), text: typed, target: typedTarget || null, ids, temperature, top_k, top_p, min_p, seed: seedOf(writing.seed) });
  /** @type {Drawn} */
  const found = await response.json();
  writing.seed.value = String(found.settings.seed);
  if (!found.ends) {
    ids.push(found.token.id);
    area.value = live.translates ? typed : typed + found.written;
    if (live.translates) target.value = typedTarget + found.written;
    change({ text: area.value, target: target.value });
  }
  live.found.unshift(found);
  live.drawn.prepend(drawnToken(found));
  await refresh(live);
  return !found.ends;
}

/**
 * Returns the buttons that let the model write.
 * @param {() => Promise<boolean>} draw draws a token; returns whether the text goes on
 * @param {HTMLElement} status
 */
function createWriting(draw, status) {
  /** The run that is going on; a token that another run has asked for ends that run. @type {object | null} */
  let running = null;
  const seed = element("input", { type: "number", min: 0, name: "seed", class: "narrow" });
  const run = async (/** @type {number} */ count) => {
    if (running) return stop();
    const own = (running = {});
    name();
    try {
      for (let at = 0; at < count && running === own; at++) if (!(await draw())) break;
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError") write(status, String(/** @type {Error} */ (error).message));
    }
    if (running === own) stop();
  };
  const stop = () => {
    running = null;
    name();
  };
  const one = element("button", { type: "button", "data-action": "draw", onclick: () => run(1) });
  const many = element("button", { type: "button", "data-action": "write", onclick: () => run(MOST_WRITTEN) });
  const seedName = element("span", { class: "control-name" });
  const name = () => {
    fill(one, text("live.draw"));
    fill(many, text(running ? "live.stop" : "live.write"));
    fill(seedName, text("live.seed"));
  };
  return { element: element("span", { class: "toolbar" }, one, many, element("label", {}, seedName, seed)), seed, stop, name, runs: () => running !== null };
}

/** @param {HTMLInputElement} input */
function seedOf(input) {
  return input.value === "" ? null : Number(input.value);
}

/**
 * Returns a drawn token with the tokens that it was drawn from.
 * @param {Drawn} found
 */
function drawnToken(found) {
  const listed = found.chances.slice(0, SHOWN_CHANCES);
  const own = found.chances.find(({ id }) => id === found.token.id);
  if (own && !listed.includes(own)) listed.push(own);
  const bar = (/** @type {Chance} */ chance) => {
    const filled = element("span", { class: "bar" });
    filled.style.width = `${Math.round(chance.drawn * 100)}px`;
    return element("li", { class: chance === own ? "own" : "" }, element("bdi", {}, chance.label), " ", percent(chance.drawn), filled);
  };
  const summary = text("live.drawn", { step: found.step + 1, probability: percent(own ? own.drawn : 0), left: found.left, uniform: found.uniform === null ? "–" : fixed(found.uniform, 3) });
  return element("li", {}, element("details", {}, element("summary", {}, element("bdi", {}, found.token.label), " ", summary), element("ul", {}, ...listed.map(bar))));
}
