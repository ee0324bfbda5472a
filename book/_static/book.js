// The search page fetches every result to show a summary.  A browser refuses
// that for pages opened from a folder, so there the titles must do.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// Formulas and tables wider than the page scroll in a box of their own.  While one
// does, the Tab key stops there, so that the arrow keys can move it, and it says so
// (in words too: the style sheet writes them under the box).
const BOXES = [
  ["div.math mjx-container", "Formula, wider than the page: scrolls sideways"],
  [".pst-scrollable-table-container", "Table, wider than the page: scrolls sideways"],
  [".text_html:has(table.dataframe)", "Table, wider than the page: scrolls sideways"],
  [".mc-numbers", null], // brings its own name
];

function markWideBoxes() {
  for (const [boxes, label] of BOXES) {
    for (const box of document.querySelectorAll(`article ${boxes}`)) {
      const wide = box.scrollWidth > box.clientWidth + 1;
      if (wide === box.classList.contains("book-wide")) continue;
      box.classList.toggle("book-wide", wide);
      if (label === null) continue;
      const attributes = { tabindex: "0", role: "group", "aria-label": label };
      for (const [name, value] of Object.entries(attributes)) {
        if (wide) box.setAttribute(name, value);
        else box.removeAttribute(name);
      }
    }
  }
}

window.addEventListener("load", () => {
  markWideBoxes();
  // formulas get their width when they are set
  window.MathJax?.startup?.promise?.then(markWideBoxes);
  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(markWideBoxes);
  };
  window.addEventListener("resize", soon);
  // what was folded away has a width when it is opened
  document.addEventListener("toggle", soon, true);
});
