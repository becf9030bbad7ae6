// @ts-check
// The curves of training runs in the live page: the loss of one run over its steps, followed while the run goes on.

import { element, fill, fillOptions, svg } from "./dom.js";
import { fixed, number, text } from "./format.js";
import { tableBehind } from "./table.js";

/** @typedef {import("./live.js").Server} Server */
/** @typedef {{step: number[], loss: number[]}} Curve */
/** @typedef {{train: Curve, validation: Curve, status: string}} Curves */

const POLL = 3000; // milliseconds between two requests for the curve of a run that goes on
const [TRAIN, VALIDATION] = ["var(--head-4)", "var(--head-1)"]; // colors of the two curves
const [WIDEST, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [560, 230, 52, 42, 24, 8]; // pixels of the picture and around its axes

/**
 * Returns the panel with the curves. The list of runs is asked for when the panel is opened and when the list gets the
 * focus; the curve of a run that goes on is asked for again and again while the panel is open.
 * @param {Server} server
 */
export function createCurves(server) {
  const summary = element("summary");
  const runs = element("select", { name: "run" });
  const news = element("p", { class: "note", "aria-live": "polite" });
  const picture = element("div");
  /** @type {Curves | null} */
  let found = null;
  let shown = ""; // the run of the curve that is found
  let timer = 0;
  const table = tableBehind(() => tableOf(found));
  const details = element("details", { class: "curves" }, summary, runs, news, picture, table.element);
  const draw = () => {
    fill(picture, found ? lossPicture(found, Math.min(WIDEST, picture.clientWidth || WIDEST)) : element("p", { class: "note" }, text("curves.none")));
    table.update();
  };
  const poll = async () => {
    clearTimeout(timer);
    if (!details.open || !runs.value) return;
    const name = runs.value;
    if (name !== shown) found = null;
    shown = name;
    try {
      const { train, validation, status } = await server.get(`runs/${encodeURIComponent(name)}`);
      if (name !== shown) return;
      found = { train: measured(train), validation: measured(validation), status };
      fill(news);
    } catch (error) {
      if (name !== shown) return;
      fill(news, text("curves.failed", { message: /** @type {Error} */ (error).message }));
    }
    draw();
    clearTimeout(timer);
    if (!found || found.status === "running" || news.textContent) timer = setTimeout(poll, POLL);
  };
  const list = async () => {
    try {
      const { runs: listed } = await server.get("runs");
      fillOptions(runs, listed.map((/** @type {{name: string, status: string}} */ run) => ({ value: run.name, label: `${run.name} · ${run.status}` })));
      fill(news);
    } catch (error) {
      fill(news, /** @type {Error} */ (error).message);
    }
  };
  details.addEventListener("toggle", async () => {
    if (!details.open) return clearTimeout(timer);
    await list();
    draw();
    await poll();
  });
  runs.addEventListener("focus", list);
  runs.addEventListener("change", poll);
  return {
    element: details,
    name: () => {
      fill(summary, text("curves"));
      runs.setAttribute("aria-label", text("curves"));
      if (details.open) draw();
    },
  };
}

/** @param {Curves | null} found */
function tableOf(found) {
  const { step, loss } = found?.validation ?? { step: [], loss: [] };
  return {
    caption: text("curves.table"),
    head: [text("curves.step"), text("curves.validation")],
    rows: step.map((each, at) => [number(each, 12), fixed(loss[at], 4)]),
  };
}

/**
 * Returns the points of a curve of the server, without those that were not measured.
 * @param {{step: number[], nats_per_token: (number | null)[]}} curve
 * @returns {Curve}
 */
function measured({ step, nats_per_token }) {
  const points = nats_per_token.map((loss, at) => ({ step: step[at], loss })).filter(({ loss }) => loss !== null);
  return { step: points.map((point) => point.step), loss: points.map((point) => Number(point.loss)) };
}

/**
 * Returns round numbers in a range, for an axis.
 * @param {number} low
 * @param {number} high
 * @param {number} most
 */
function ticks(low, high, most) {
  const rough = (high - low || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((each) => each * power >= rough) ?? 10);
  const first = Math.ceil(low / step);
  return [...Array(Math.max(0, Math.floor(high / step + 1e-9) - first + 1)).keys()].map((at) => (first + at) * step);
}

/**
 * Draws the losses of a run over its steps.
 * @param {Curves} found
 * @param {number} width in pixels
 */
function lossPicture({ train, validation }, width) {
  const curves = [train, validation].filter(({ step }) => step.length);
  if (!curves.length) return element("p", { class: "note" }, text("curves.none"));
  const steps = curves.flatMap(({ step }) => step);
  const losses = curves.flatMap(({ loss }) => loss);
  const range = (/** @type {number[]} */ values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [[first, last], [low, high]] = [range(steps), range(losses)];
  const [right, floor] = [width - RIGHT, HEIGHT - BOTTOM];
  const x = (/** @type {number} */ step) => LEFT + ((step - first) / (last - first || 1)) * (right - LEFT);
  const y = (/** @type {number} */ loss) => TOP + ((high - loss) / (high - low || 1)) * (floor - TOP);
  const curve = (/** @type {Curve} */ { step, loss }, /** @type {string} */ color) =>
    svg("polyline", { points: step.map((each, at) => `${x(each)},${y(loss[at])}`).join(" "), fill: "none", stroke: color, "stroke-width": 2 });
  const words = (/** @type {number} */ across, /** @type {number} */ down, /** @type {string} */ shown, /** @type {string} */ anchor, fill = "var(--quiet)") =>
    svg("text", { x: across, y: down, fill, "font-size": 12, "text-anchor": anchor }, shown);
  const line = (/** @type {number} */ left, /** @type {number} */ top, /** @type {number} */ across, /** @type {number} */ down) => svg("line", { x1: left, x2: across, y1: top, y2: down, stroke: "var(--edge)" });
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": text("curves.table"), class: "wide" },
    line(LEFT, floor, right, floor),
    line(LEFT, TOP, LEFT, floor),
    ...ticks(low, high, 6).flatMap((loss) => [line(LEFT, y(loss), right, y(loss)), words(LEFT - 6, y(loss) + 4, number(loss, 4), "end")]),
    ...ticks(first, last, 4).flatMap((step) => [line(x(step), floor, x(step), floor + 4), words(x(step), floor + 17, number(step, 12), "middle")]),
    words(4, 12, text("curves.loss"), "start"),
    words(right, HEIGHT - 6, text("curves.step"), "end"),
    curve(train, TRAIN),
    curve(validation, VALIDATION),
    words(right, TOP + 12, text("curves.train"), "end", TRAIN),
    words(right, TOP + 28, text("curves.validation"), "end", VALIDATION),
  );
}
