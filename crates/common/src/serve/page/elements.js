// SPDX-License-Identifier: MIT OR Apache-2.0
// Elements of the page. Text from elsewhere goes in as text only.

// An element with properties and children, which are elements or text.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Sets a text, if it is another: a screen reader reads it again otherwise.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The name of a metric, which may be broken after each word.
function brokenName(metric) {
  return metric.split(/(?<=_)/).flatMap((word) => [word, make("wbr")]);
}

// The values of the labels of a series. Each is isolated, so that one that is read from right to left turns no other
// around.
function labelsOf(series) {
  const shown = [...series.labels].filter(([name]) => name !== "le").map(([, text]) => make("bdi", {}, safe(text) || "(empty)"));
  if (!shown.length) return ["all"];
  return shown.flatMap((element, at) => (at ? [" · ", element] : [element]));
}

// A table with a line of headers. Lines are known by a key and stay the same elements, so that the keyboard's focus
// stays where it is.
class Table {
  constructor(...headers) {
    this.body = make("tbody");
    this.head = make("tr");
    this.headers(headers);
    this.element = make("div", { className: "wide" }, make("table", {}, make("thead", {}, this.head), this.body));
    this.lines = new Map();
  }

  headers(headers) {
    if (this.shown === headers.join("\n")) return;
    this.shown = headers.join("\n");
    this.head.replaceChildren(...headers.map((text) => make("th", { scope: "col" }, text)));
    this.head.hidden = !headers.some(Boolean);
  }

  // Shows lines: of each its key, a function that makes its first cell, and the texts of the others.
  show(lines) {
    const rows = lines.map(([key, cell, ...texts]) => {
      let row = this.lines.get(key);
      if (!row) {
        row = make("tr", {}, make("td", {}, cell()), ...texts.map(() => make("td")));
        this.lines.set(key, row);
      }
      texts.forEach((text, at) => say(row.cells[at + 1], text));
      return row;
    });
    const keys = new Set(lines.map(([key]) => key));
    for (const [key, row] of this.lines) {
      if (keys.has(key)) continue;
      row.remove();
      this.lines.delete(key);
    }
    // Moving a line takes the focus from it.
    const moved = rows.some((row, at) => row !== this.body.rows[at]);
    const used = this.body.contains(document.activeElement);
    if (moved && !used) this.body.append(...rows);
    else if (moved) this.body.append(...rows.filter((row) => !row.parentNode));
    this.element.hidden = rows.length === 0;
  }
}
