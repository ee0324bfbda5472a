// The weight matrices of a network as heat maps whose rows and columns can travel.
// Uses what permutation_network.js has for orders.

// from negative through zero to positive; told apart by every kind of colour vision.  In the
// dark the style sheet turns light and dark round and keeps the hue.
const [LOW, ZERO, HIGH] = [[176, 78, 0], [246, 246, 246], [0, 88, 164]];
function colour(share) {
  const s = Math.min(1, Math.abs(share));
  const end = share < 0 ? LOW : HIGH;
  return [...ZERO.map((c, i) => Math.round(c + s * (end[i] - c))), 255];
}
function pixelsOf(width, height, share) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    image.data.set(colour(share(Math.floor(i / width), i % width)), 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

const APART = 3; // css pixels between the weights and the bias
const BETWEEN = 26; // and between two matrices; the style sheet holds the same number
const LEAST = 110; // the least width of the words under a matrix
const NAMES = ["first", "second", "third", "fourth", "fifth", "sixth"];

// One matrix, its bias as one more column.  `slots`: where a unit stands, maybe between two slots.
function heatMap({ inputs, outputs, bias }, l, last, weights, at, scale) {
  const unit = (n, word) => `${n}\u00a0${word}${n === 1 ? "" : word === "class" ? "es" : "s"}`;
  const name = last ? "output" : `${NAMES[l] || `${l + 1}th`} layer`;
  const words = `${name}: ${unit(outputs, last ? "class" : "unit")}\u00a0\u00d7\u00a0`
    + `${unit(inputs, l ? "unit" : "pixel")}`;
  const canvas = el("canvas", {
    class: "mcw-heat", role: "img",
    "aria-label": `Heat map of the weights, ${words.replaceAll("\u00a0", " ")}`
      + (bias ? ", and the biases" : ""),
  });
  const caption = el("figcaption", {}, words);
  const source = pixelsOf(inputs + 1, outputs, (i, k) =>
    weights[k < inputs ? at + i * inputs + k : at + inputs * outputs + i] / scale);
  const middle = el("canvas", {});
  const node = el("figure", { class: "mcw-matrix" }, canvas, caption);
  const map = { canvas, node, inputs, outputs, bias };

  map.widthAt = (wide) => inputs * wide + (bias ? wide + APART : 0);
  map.resize = (wide, high) => {
    Object.assign(map, { wide, high, width: map.widthAt(wide), height: outputs * high });
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(map.width * ratio);
    canvas.height = Math.round(map.height * ratio);
    canvas.style.width = `${map.width}px`;
    canvas.style.height = `${map.height}px`;
    // it may reach into the space between two matrices
    caption.style.width = `${Math.max(LEAST, map.width + (last ? 0 : BETWEEN - 6))}px`;
    caption.style.marginRight = last ? "0" : `${6 - BETWEEN}px`;
    [middle.width, middle.height] = [canvas.width, outputs];
  };
  // the columns are put in their places first, then strips of the result
  map.draw = (rows, columns, first) => {
    const [kx, ky] = [canvas.width / map.width, canvas.height / map.height];
    const inks = [middle, canvas].map((one) => one.getContext("2d"));
    for (const ink of inks) {
      ink.imageSmoothingEnabled = false;
      ink.clearRect(0, 0, canvas.width, canvas.height);
    }
    const [ink, out] = inks;
    const strip = (place, size, k) => {
      const from = Math.round(place * size * k);
      return [from, Math.max(1, Math.round((place + 1) * size * k) - from)];
    };
    // those that are followed lie above the others
    const upper = (n, top) => [...naturals(n).filter((i) => i !== top), ...(top < n ? [top] : [])];
    for (const i of upper(inputs, columns ? first.column : inputs)) {
      const [x, size] = strip(columns ? columns[i] : i, map.wide, kx);
      ink.drawImage(source, i, 0, 1, outputs, x, 0, size, outputs);
    }
    if (bias) {
      const x = Math.round((inputs * map.wide + APART) * kx);
      ink.drawImage(source, inputs, 0, 1, outputs, x, 0, canvas.width - x, outputs);
    }
    for (const i of upper(outputs, rows ? first.row : outputs)) {
      const [y, size] = strip(rows ? rows[i] : i, map.high, ky);
      out.drawImage(middle, 0, i, canvas.width, 1, 0, y, canvas.width, size);
    }
  };
  return map;
}

// All matrices; over them, for each hidden layer, one unit: its row, its column in the next, and
// the line from the one to the other.
function matrices(layers, weights, scale, tracked, onPick) {
  const starts = layers.map((_, l) =>
    layers.slice(0, l).reduce((sum, { inputs, outputs }) => sum + (inputs + 1) * outputs, 0));
  const last = layers.length - 1;
  const maps = layers.map((layer, l) => heatMap(layer, l, l === last, weights, starts[l], scale));
  const marks = tracked.map((_, l) => {
    const parts = {
      row: sv("rect", {}), column: sv("rect", {}), link: sv("path", {}), tip: sv("path", {}),
    };
    const node = sv("g", { class: `mcw-follow mcw-f${l % 3}` });
    for (const one of [parts.link, parts.row, parts.column]) {
      const halo = one.cloneNode();
      halo.setAttribute("class", "mcw-halo");
      node.append(halo, one);
      one.halo = halo;
    }
    parts.tip.setAttribute("class", "mcw-tip");
    node.append(parts.tip);
    return { ...parts, node };
  });
  const over = sv("svg", { class: "mcw-over", "aria-hidden": "true" }, ...marks.map((m) => m.node));
  const shades = pixelsOf(101, 1, (_, k) => k / 50 - 1);
  put(shades, { class: "mcw-heat", "aria-hidden": "true" }, []);
  maps[last].node.append(
    el("div", { class: "mcw-legend" }, minus(String(-scale)), shades, `+${scale}`),
  );
  const node = el("div", { class: "mcw-matrices" }, ...maps.map((map) => map.node), over);
  const give = (one, attributes) => {
    for (const [key, value] of Object.entries(attributes)) {
      for (const each of [one, one.halo]) {
        if (each) each.setAttribute(key, typeof value === "number" ? value.toFixed(1) : value);
      }
    }
  };
  let slots = null;
  let places = [];

  function draw(now = slots) {
    slots = now;
    if (!slots || !places.length) return;
    maps.forEach((map, l) =>
      map.draw(slots[l], slots[l - 1], { row: tracked[l], column: tracked[l - 1] }));
    marks.forEach(({ row, column, link, tip }, l) => {
      const [a, b, slot] = [maps[l], maps[l + 1], slots[l][tracked[l]]];
      const [[ax, ay], [bx, by]] = [places[l], places[l + 1]];
      const [y, x] = [ay + slot * a.high, bx + slot * b.wide];
      const [my, mx, turn] = [y + a.high / 2, x + b.wide / 2, 4 * (l % 2)];
      // on its way down the line keeps clear of the words under a narrow matrix
      const side = ax + Math.max(a.width, by > ay + a.height ? LEAST : 0) + 9 + turn;
      give(row, { x: ax - 1.5, y: y - 1.5, width: a.width + 3, height: a.high + 3 });
      give(column, { x: x - 1.5, y: by - 1.5, width: b.wide + 3, height: b.height + 3 });
      give(link, {
        d: `M${ax + a.width + 2} ${my.toFixed(1)}H${side}`
          + `V${by - 9 - turn}H${mx.toFixed(1)}V${by - 2}`,
      });
      give(tip, { d: `M${(mx - 4).toFixed(1)} ${by - 7}h8l-4 6z` });
    });
  }

  // one row of square cells where they fit; else rows of matrices, as large as the width allows
  function fit() {
    const space = node.clientWidth - 3;
    if (space <= 0) return;
    const count = maps.map((map) => map.inputs + Number(map.bias));
    const all = count.reduce((a, b) => a + b, 0);
    const one = Math.floor((space - last * BETWEEN - maps.length * APART) / all);
    // in several rows the lines need room at the right
    const room = space - 14;
    const widest = (room - APART) / Math.max(...count);
    maps.forEach((map, l) => {
      const most = (room - APART) / count[l];
      const wide = one >= 4 ? Math.min(one, 7) : Math.min(5, widest >= 2 ? widest : most);
      // large ones must leave the page to the rest
      const low = Math.max(1, Math.floor(280 / map.outputs));
      const cell = wide >= 1 ? Math.min(Math.floor(wide), Math.max(2, low)) : wide;
      map.resize(cell, Math.max(cell, Math.min(5, low)));
    });
    places = maps.map(({ canvas }) => [canvas.offsetLeft, canvas.offsetTop]);
    draw();
  }
  maps.forEach((map, l) => {
    map.canvas.addEventListener("click", (event) => {
      const box = map.canvas.getBoundingClientRect();
      const which = l < last ? l : l - 1;
      const slot = Math.floor(l < last
        ? (event.clientY - box.top) / map.high
        : (event.clientX - box.left) / map.wide);
      if (slot >= 0 && slot < layers[which].outputs) onPick(which, slot);
    });
  });
  const observer = new ResizeObserver(fit);
  observer.observe(node);
  return { node, draw, fit, stop: () => observer.disconnect() };
}
