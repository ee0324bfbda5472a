// Words and straight lines of a drawing, to a tenth of a pixel; with slider.js.

const svgText = (x, y, words, attributes) => {
  const out = sv("text", { x: x.toFixed(1), y: y.toFixed(1), ...attributes });
  out.textContent = words;
  return out;
};
const svgLine = ([x1, y1], [x2, y2], name) => sv("line", {
  x1: x1.toFixed(1), y1: y1.toFixed(1), x2: x2.toFixed(1), y2: y2.toFixed(1), class: name,
});
