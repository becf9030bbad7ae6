// @ts-check
// The glossary: a button that opens a dialog with the meaning of the words on the page.

import { element } from "./dom.js";
import { text } from "./format.js";

const WORDS = ["token", "query", "key", "value", "weight", "share", "head", "layer", "rollout", "cut", "surprise", "logit", "temperature", "filters"];

/** Returns the button, and the dialog that it opens. Escape closes the dialog. */
export function glossary() {
  const entries = WORDS.flatMap((word) => [element("dt", {}, text(`word.${word}`)), element("dd", {}, text(`word.${word}.means`))]);
  const close = element("button", { type: "button", onclick: () => dialog.close() }, text("words.close"));
  const dialog = element("dialog", { class: "glossary", "aria-label": text("words.title") }, element("h2", {}, text("words.title")), element("dl", { tabindex: "0" }, ...entries), close);
  return [element("button", { type: "button", name: "glossary", onclick: () => dialog.showModal() }, text("words.open")), dialog];
}
