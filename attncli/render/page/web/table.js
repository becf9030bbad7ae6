// @ts-check
// Tables: behind every picture is a table with its numbers.

import { element, fill, write } from "./dom.js";
import { text } from "./format.js";

/**
 * Returns a table that is built when it is opened, and rebuilt by `update` while it is open.
 * @param {() => {caption: string, head: string[], rows: (string | Node)[][]}} build the first cell of a row is its name
 */
export function tableBehind(build) {
  const summary = element("summary");
  const body = element("div", { class: "table-scroll", tabindex: "0" });
  const details = element("details", { class: "behind" }, summary, body);
  const update = () => {
    write(summary, text("table.show"));
    if (!details.open) return;
    const { caption, head, rows } = build();
    body.setAttribute("aria-label", caption);
    fill(body, dataTable(caption, head, rows));
  };
  details.addEventListener("toggle", update);
  return { element: details, update };
}

/**
 * Returns a table whose first row and first column are headers.
 * @param {string} caption
 * @param {string[]} head
 * @param {(string | Node)[][]} rows
 */
export function dataTable(caption, head, rows) {
  return element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element(
      "tbody",
      {},
      ...rows.map(([name, ...cells]) =>
        element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell))),
      ),
    ),
  );
}
