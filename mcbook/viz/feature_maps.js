// Features as fields of squares or as bars, all on one scale, and a line chart over the layers.
// Nothing here needs colour: what is positive is full, what is negative hollow.

// ---------------------------------------------------------------- squares and bars

const CELL = 10; // of the drawing's own units; the page scales it
const LEAST_SHARE = 0.002; // of the largest square's area: less is no more than its dot
const MOST_BARS = 20;

// as nearly square as a whole last row allows
function columnsFor(units) {
  const root = Math.ceil(Math.sqrt(units));
  for (let columns = root; columns <= 1.65 * root; columns += 1) {
    if (units % columns === 0) return columns;
  }
  return root;
}
const boxPath = (x, y, wide, high) => {
  const [left, top, across, down] = [x, y, wide, high].map((v) => v.toFixed(2));
  return `M${left} ${top}h${across}v${down}h${-across}z`;
};
// a rim of its own width, so that a small hollow box is still hollow, and yet seen
function rimPath(x, y, wide, high, least) {
  const side = Math.min(wide, high);
  const rim = Math.min(side / 3, Math.max(least, 0.16 * side));
  return boxPath(x, y, wide, high)
    + boxPath(x + rim, y + rim, wide - 2 * rim, high - 2 * rim);
}
const shapes = () => [
  sv("path", { class: "mcw-zeros" }), sv("path", { class: "mcw-above" }),
  sv("path", { class: "mcw-under", "fill-rule": "evenodd" }),
];

// one square a unit, in the order of the network
function field(units) {
  const columns = columnsFor(units);
  const rows = Math.ceil(units / columns);
  const [zeros, above, under] = shapes();
  const middle = (i) =>
    [CELL * ((i % columns) + 0.5), CELL * (Math.floor(i / columns) + 0.5)];
  const svg = sv("svg", {
    role: "img", class: "mcw-field", viewBox: `0 0 ${CELL * columns} ${CELL * rows}`,
    style: `max-width: ${Math.min(220, 40 * columns)}px`,
  }, zeros, above, under);
  return {
    svg,
    show(values, { low, high }) {
      const most = Math.max(high, -low);
      const paths = ["", "", ""];
      values.forEach((value, i) => {
        const share = most > 0 ? Math.abs(value) / most : 0;
        const seen = share > LEAST_SHARE;
        const side = seen ? 0.94 * CELL * Math.sqrt(share) : 1;
        const [x, y] = middle(i).map((v) => v - side / 2);
        if (!seen) paths[0] += boxPath(x, y, side, side);
        else if (value > 0) paths[1] += boxPath(x, y, side, side);
        else paths[2] += rimPath(x, y, side, side, 0.05 * columns);
      });
      [zeros, above, under].forEach((path, i) => path.setAttribute("d", paths[i]));
    },
  };
}

// one bar a class, with its name
function bars(names) {
  const [wide, step] = [170, 15];
  const shorter = (name) => (name.length > 9 ? `${name.slice(0, 8)}\u2026` : name);
  const longest = Math.max(...names.map((name) => shorter(name).length));
  const from = 6.6 * longest + 7;
  const [zeros, above, under] = shapes();
  const labels = names.map((name, i) => {
    const label = sv("text", { x: from - 7, y: step * i + 11.5, "text-anchor": "end" });
    label.textContent = shorter(name);
    return label;
  });
  const svg = sv("svg", {
    role: "img", class: "mcw-field", style: "max-width: 220px",
    viewBox: `0 0 ${wide} ${step * names.length}`,
  }, ...labels, above, under, zeros);
  return {
    svg,
    show(values, { low, high }, truth) {
      const [lo, hi] = [Math.min(low, 0), Math.max(high, 0)];
      const x = (value) => from + ((value - lo) / (hi - lo || 1)) * (wide - from - 1);
      const paths = ["", ""];
      values.forEach((value, i) => {
        const [y, size] = [step * i + 2.5, Math.abs(x(value) - x(0))];
        if (value > 0) paths[0] += boxPath(x(0), y, size, step - 5);
        else if (value < 0) paths[1] += rimPath(x(value), y, size, step - 5, 1);
        labels[i].classList.toggle("mcw-strong", i === truth);
      });
      above.setAttribute("d", paths[0]);
      under.setAttribute("d", paths[1]);
      zeros.setAttribute("d", boxPath(x(0) - 0.5, 0, 1, step * names.length));
    },
  };
}

const sizeText = (x) => minus(Math.abs(x) < 1e-3 && x !== 0 ? x.toExponential(1) : x.toPrecision(3));

// One feature map with its name; classes: their names where the features are the logits.
function featureMap(name, note) {
  const place = el("div", { class: "mcw-place-of-field" });
  const node = el("figure", { class: "mcw-map" },
    el("figcaption", {}, el("b", {}, name), " ", el("span", {}, note)), place);
  let drawing = null;
  let drawn = "";
  return {
    node,
    show(values, range, { stage, classes, truth }) {
      const few = classes && classes.length <= MOST_BARS;
      if (drawn !== stage) {
        drawing = few ? bars(classes) : field(values.length);
        place.replaceChildren(drawing.svg);
        drawn = stage;
      }
      drawing.show(values, range, truth);
      const count = (test) => values.filter(test).length;
      const most = values.reduce((best, v, i) => (v > values[best] ? i : best), 0);
      drawing.svg.setAttribute("aria-label", few
        ? `${name}, ${stage}: ${classes.map((one, c) => `${one} ${minus(values[c].toFixed(1))}`).join(", ")}`
        : `${name}, ${stage}: ${values.length} features, ${count((v) => v > 0)} above zero, `
          + `${count((v) => v < 0)} below, the largest ${sizeText(values[most])} at unit ${most}`);
    },
  };
}

// ---------------------------------------------------------------- over the layers

const HIGH = 196; // the style sheet keeps the place
const STEP = 15; // from zero to the lowest line of a logarithmic axis

// The ticks of 1 − cos, from zero: logarithmic where values differ by more than a factor of ten,
// and linear below its lowest line, so that zero has a place.
function layerScale(values, top, bottom) {
  const some = values.filter((v) => v > 1e-7);
  const most = some.length ? Math.max(...some) : 1;
  const least = some.length ? Math.min(...some) : 1;
  if (most / least < 10) {
    const { ticks, places } = niceTicks(0, 1.08 * most, 4);
    return {
      y: (v) => bottom - (v / (1.08 * most)) * (bottom - top),
      ticks: ticks.map((v) => [v, v.toFixed(places)]),
    };
  }
  const low = 10 ** Math.max(Math.floor(Math.log10(least)), Math.ceil(Math.log10(most)) - 4);
  const decades = Math.log10((1.15 * most) / low);
  const y = (v) => (v <= low
    ? bottom - (STEP * v) / low
    : bottom - STEP - (Math.log10(v / low) / decades) * (bottom - top - STEP));
  const ticks = [[0, "0"]];
  for (let k = Math.round(Math.log10(low)); 10 ** k <= 1.15 * most; k += 1) {
    ticks.push([10 ** k, (10 ** k).toFixed(Math.max(0, -k))]);
  }
  return { y, ticks };
}

// stages: [{name, layer, relu}]; a click on a column picks its stage
function layerChart(stages, onPick) {
  const node = sv("svg", { class: "mcw-layers", role: "img" });
  const [top, bottom] = [10, HIGH - 42];
  let width = 0;
  let shown = null;
  const text = (x, y, words, name, anchor = "middle") => {
    const out = sv("text", { x: x.toFixed(1), y: y.toFixed(1), class: name, "text-anchor": anchor });
    out.textContent = words;
    return out;
  };
  const rule = (x1, y1, x2, y2, name) => sv("line", { x1, y1, x2, y2, class: name });

  function paintAll() {
    if (!width || !shown) return;
    const { own, ends, chosen, style, range, alpha } = shown;
    const { y, ticks } = layerScale(range, top, bottom);
    const slot = (width - LEFT - RIGHT) / stages.length;
    const x = (i) => LEFT + (i + 0.5) * slot;
    const parts = [rule(LEFT, bottom, width - RIGHT, bottom, "mcw-axis")];
    parts.push(sv("rect", {
      class: "mcw-chosen", x: x(chosen) - slot / 2, y: top - 6, width: slot, height: bottom - top + 6,
    }));
    for (const [value, words] of ticks) {
      if (value) parts.push(rule(LEFT, y(value), width - RIGHT, y(value), "mcw-grid"));
      parts.push(text(LEFT - 8, y(value) + 4, words, "mcw-tick", "end"));
    }
    stages.forEach(({ name, layer, relu }, i) => {
      const pair = stages.filter((one) => one.layer === layer).length === 2;
      if (pair && slot > 33) {
        parts.push(text(x(i), bottom + 15, relu ? "after" : "before", "mcw-tick"));
      }
      const middle = pair ? x(i) + slot / 2 : x(i);
      if (!pair || !relu) {
        const words = name.replace(" before ReLU", "");
        parts.push(text(middle, bottom + 32, words, "mcw-tick mcw-layer-name"));
      }
      if (i && stages[i - 1].layer !== layer) {
        parts.push(rule(x(i) - slot / 2, bottom, x(i) - slot / 2, bottom + 34, "mcw-grid"));
      }
    });
    // a stage without features leaves a gap
    const line = (values) => values.map((v, i) => {
      const begins = !i || values[i - 1] === null;
      return v === null ? "" : `${begins ? "M" : "L"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
    }).join("");
    parts.push(
      sv("path", { class: "mcw-between", d: line(ends) }),
      sv("path", { class: `mcw-line mcw-main mcw-s${style}`, d: line(own) }),
    );
    own.forEach((v, i) => {
      if (v === null) return;
      parts.push(sv("circle", {
        class: `mcw-dot mcw-s${style}`, cx: x(i).toFixed(1), cy: y(v).toFixed(1),
        r: i === chosen ? 6.5 : 4.5,
      }));
    });
    node.setAttribute("aria-label", `Line chart of the mean of 1 \u2212 cos between own features and `
      + `blend at \u03b1 = ${tText(alpha)}: `
      + stages.map(({ name }, i) => `${name} ${own[i] === null ? "none" : lossText(own[i])}`).join(", "));
    node.replaceChildren(...parts);
  }
  node.addEventListener("click", (event) => {
    const slot = (width - LEFT - RIGHT) / stages.length;
    const i = Math.floor((event.clientX - node.getBoundingClientRect().left - LEFT) / slot);
    if (i >= 0 && i < stages.length) onPick(i);
  });
  return {
    node,
    draw(newWidth) {
      width = newWidth;
      put(node, { viewBox: `0 0 ${width} ${HIGH}`, width, height: HIGH }, []);
      paintAll();
    },
    show(what) {
      shown = what;
      node.dataset.own = JSON.stringify(what.own);
      node.dataset.ends = JSON.stringify(what.ends);
      paintAll();
    },
  };
}
