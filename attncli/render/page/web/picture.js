// @ts-check
// Saves a picture as an SVG or PNG file that needs nothing else: colors are resolved, fonts are generic.

import { element, fill, svg } from "./dom.js";
import { isolated, text, unitName } from "./format.js";
import { state } from "./state.js";

/** @typedef {import("./page.js").Page} Page */

const MARGIN = 16; // pixels around a picture
const SHARPER = 2; // pixels of a PNG for each pixel of the picture
const NARROWEST = 420; // pixels of a picture with its caption
const CAPTION = { size: 12, height: 17, most: 8 }; // pixels of its letters and lines; the most lines
const LARGEST = 16000; // pixels along a side of a PNG
const VARIABLE = /var\((--[\w-]+)(?:,[^)]*)?\)/g;
const OF_ALL_HEADS = ["heads", "layers"]; // views that do not depend on the selected heads
const FONTS = new Map([["--mono", "monospace"], ["--font", "sans-serif"]]);
// Characters that XML does not allow.
const FORBIDDEN = /[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu;

/**
 * Returns the buttons that save a picture.
 * @param {Page} page
 * @param {string} view the name of the view, which becomes part of the name of the file
 * @param {() => SVGSVGElement} draw
 */
export function saveButtons(page, view, draw) {
  const button = (/** @type {string} */ kind, /** @type {() => void} */ save) => element("button", { type: "button", "data-save": kind, "aria-label": text("save.as", { kind: kind.toUpperCase() }), onclick: save }, kind.toUpperCase());
  const blob = () => new Blob([source(page, view, draw())], { type: "image/svg+xml" });
  const saveSvg = () => download(blob(), `${fileName(page, view)}.svg`);
  const savePng = () => bitmap(blob()).then((made) => download(made, `${fileName(page, view)}.png`));
  return element("p", { class: "save" }, element("span", { class: "control-name" }, text("save")), button("svg", saveSvg), " ", button("png", savePng));
}

/**
 * Returns the name of a file without its ending: the model, the view and the selected heads. Characters other than
 * letters, digits, dots and hyphens become hyphens.
 * @param {Page} page
 * @param {string} view
 */
function fileName(page, view) {
  const heads = OF_ALL_HEADS.includes(view) ? [] : page.measure === "rollout" ? ["rollout"] : page.chosen.map(({ name }) => name);
  const parts = [page.doc.model, ...(page.index ? ["b"] : []), view, ...heads];
  return parts.join("-").replace(/[^\p{L}\p{N}.-]+/gu, "-").replace(/^[.-]+/, "") || view;
}

/**
 * Returns the source of an SVG file, in the colors of the chosen theme.
 * @param {Page} page
 * @param {string} view
 * @param {SVGSVGElement} drawn
 */
function source(page, view, drawn) {
  const [, , width, height] = (drawn.getAttribute("viewBox") ?? "0 0 0 0").split(" ").map(Number);
  const lines = captionOf(page, view, Math.max(width, NARROWEST));
  const size = { width: Math.max(width, NARROWEST) + 2 * MARGIN, height: height + lines.length * CAPTION.height + 3 * MARGIN };
  const background = svg("rect", { x: -MARGIN, y: -MARGIN, ...size, fill: "var(--paper)" });
  drawn.append(...lines.map((line, at) => svg("text", { x: 0, y: height + MARGIN + (at + 1) * CAPTION.height, fill: at ? "var(--quiet)" : "var(--ink)", "font-family": "sans-serif", "font-size": CAPTION.size, class: "caption" }, line)));
  drawn.prepend(svg("title", {}, `${page.doc.model}: ${text(`view.${view}`)}`), svg("desc", {}, description(page, view)), background);
  drawn.setAttribute("viewBox", `${-MARGIN} ${-MARGIN} ${size.width} ${size.height}`);
  drawn.setAttribute("width", String(size.width));
  drawn.setAttribute("height", String(size.height));
  resolveColors(drawn);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(drawn).replace(FORBIDDEN, "\uFFFD")}\n`;
}

/**
 * Returns the lines under a picture: the model and the view, the selection, the text. A long text is cut off; the
 * description of the file has all of it.
 * @param {Page} page
 * @param {string} view
 * @param {number} width in pixels
 */
function captionOf(page, view, width) {
  const pen = /** @type {CanvasRenderingContext2D} */ (element("canvas").getContext("2d"));
  pen.font = `${CAPTION.size}px sans-serif`;
  /** @type {string[]} */
  const lines = [];
  for (const part of [`${page.doc.model}: ${text(`view.${view}`)} · ${selection(page, view).join(" · ")}`, ...textsOf(page)]) {
    let line = "";
    for (const word of part.split(" ")) {
      const longer = line ? `${line} ${word}` : word;
      if (line && pen.measureText(longer).width > width) {
        lines.push(line);
        line = word;
      } else line = longer;
      if (lines.length > CAPTION.most) return [...lines.slice(0, CAPTION.most), "…"];
    }
    lines.push(line);
  }
  return lines;
}

/**
 * Returns the text of a page, after the source that it translates.
 * @param {Page} page
 */
function textsOf({ doc }) {
  const words = (/** @type {import("./data.js").Token[]} */ tokens) => tokens.map(({ label }) => isolated(label)).join(" ");
  return [...(doc.source ? [text("save.source", { tokens: words(doc.source) })] : []), text("save.text", { tokens: words(doc.tokens) })];
}

/**
 * Describes what a picture shows: the view, the text, the selection.
 * @param {Page} page
 * @param {string} view
 */
function description(page, view) {
  return [text(`view.${view}.about`), ...textsOf(page), ...selection(page, view)].join("\n");
}

/**
 * Says which heads are selected, which attention is shown, in which measure, and what is hidden.
 * @param {Page} page
 * @param {string} view
 */
function selection(page, view) {
  const { attention, rows, shownUnit, column } = page;
  const heads = OF_ALL_HEADS.includes(view) ? [] : [text("save.heads", { heads: page.measure === "rollout" ? text("measure.rollout") : page.chosen.map(({ name }) => name).join(", ") })];
  const shown = text("save.shown", { part: text(`part.${attention.part}`), measure: text(`measure.${page.measure}`), row: unitName(rows[shownUnit]) });
  const source = column === null ? [] : [text("save.source", { tokens: unitName({ label: attention.columns[column].label, index: column }) })];
  return [...heads, shown, ...source, ...(state.idle ? [] : [text(page.causalAlone ? "save.hidden.first" : "save.hidden.special")])];
}

/**
 * Replaces the variables of the page in all attributes by their values.
 * @param {SVGElement} drawn
 */
function resolveColors(drawn) {
  const styles = getComputedStyle(document.documentElement);
  /** @type {Map<string, string>} */
  const values = new Map(FONTS);
  const valueOf = (/** @type {string} */ _, /** @type {string} */ name) => {
    if (!values.has(name)) values.set(name, styles.getPropertyValue(name).trim());
    return /** @type {string} */ (values.get(name));
  };
  for (const each of [drawn, ...drawn.querySelectorAll("*")]) {
    for (const { name, value } of [...each.attributes]) {
      if (value.includes("var(")) each.setAttribute(name, value.replace(VARIABLE, valueOf));
    }
  }
}

/**
 * Returns an SVG as a PNG with twice its size. A huge picture becomes smaller.
 * @param {Blob} drawn
 * @returns {Promise<Blob>}
 */
async function bitmap(drawn) {
  const address = URL.createObjectURL(drawn);
  const image = new Image();
  image.src = address;
  await image.decode();
  const scale = Math.min(SHARPER, LARGEST / Math.max(image.width, image.height));
  const canvas = element("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  return new Promise((resolve, reject) => canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("toBlob"))), "image/png"));
}

/**
 * Saves bytes as a file in the folder of downloads.
 * @param {Blob} blob
 * @param {string} name
 */
function download(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/**
 * Shows a picture instead of the view while the page is printed, with what is selected; null ends this.
 * @param {HTMLElement} holder is only shown on paper
 * @param {Page} page
 * @param {string} view
 * @param {(() => SVGSVGElement) | null | undefined} draw
 */
export function showOnPaper(holder, page, view, draw) {
  const drawn = draw?.();
  if (!drawn) return holder.replaceChildren();
  drawn.removeAttribute("width");
  drawn.removeAttribute("height");
  drawn.style.maxWidth = `${drawn.viewBox.baseVal.width}px`;
  fill(holder, element("p", { class: "note" }, selection(page, view).join(" · ")), drawn);
}
