// The plane through A, B and the bend: loss as a fill with contour lines, the curve, its handle.

// The rings around what is at least `level`, on a grid whose outside is below everything; each is
// a list of [x, y, whether that point is on the border of the grid].
function contourRings(x, y, values, level) {
  const wide = x.length + 2;
  const high = y.length + 2;
  const inner = (i, j) => i > 0 && j > 0 && i < wide - 1 && j < high - 1;
  const value = (i, j) => (inner(i, j) ? values[(j - 1) * x.length + i - 1] : -Infinity);
  const placeX = (i) => x[Math.min(x.length - 1, Math.max(0, i - 1))];
  const placeY = (j) => y[Math.min(y.length - 1, Math.max(0, j - 1))];
  // the sides of a cell: bottom, right, top, left, by their two corners
  const SIDES = [[0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]];
  // by which corners are inside, from which side to which, with the inside at the left
  const WAYS = {
    1: [[0, 3]], 2: [[1, 0]], 3: [[1, 3]], 4: [[2, 1]], 6: [[2, 0]], 7: [[2, 3]], 8: [[3, 2]],
    9: [[0, 2]], 11: [[1, 2]], 12: [[3, 1]], 13: [[0, 1]], 14: [[3, 0]],
  };
  // opposite corners inside: apart or joined, by what their mean is
  const SADDLES = [[[0, 3], [2, 1]], [[0, 1], [2, 3]], [[1, 0], [3, 2]], [[3, 0], [1, 2]]];
  const next = new Map();
  const points = new Map();
  for (let j = 0; j < high - 1; j += 1) {
    for (let i = 0; i < wide - 1; i += 1) {
      const corners = [value(i, j), value(i + 1, j), value(i + 1, j + 1), value(i, j + 1)];
      const inside = corners.reduce((sum, v, k) => sum + (v >= level ? 1 << k : 0), 0);
      let ways = WAYS[inside] || [];
      if (inside === 5 || inside === 10) {
        const joined = corners.reduce((a, b) => a + b, 0) / 4 >= level;
        ways = SADDLES[2 * Number(inside === 10) + Number(joined)];
      }
      for (const way of ways) {
        const [from, to] = way.map((side) => {
          const [i1, j1, i2, j2] = SIDES[side].map((d, k) => (k % 2 ? j : i) + d);
          const key = 2 * (j1 * wide + i1) + Number(j2 > j1);
          if (!points.has(key)) {
            const [v1, v2] = [value(i1, j1), value(i2, j2)];
            const border = v1 === -Infinity || v2 === -Infinity;
            const s = border ? 0 : (level - v1) / (v2 - v1);
            points.set(key, [
              placeX(i1) + s * (placeX(i2) - placeX(i1)),
              placeY(j1) + s * (placeY(j2) - placeY(j1)), border,
            ]);
          }
          return key;
        });
        next.set(from, to);
      }
    }
  }
  const rings = [];
  while (next.size) {
    const ring = [];
    let [key] = next.keys();
    while (next.has(key)) {
      ring.push(points.get(key));
      const to = next.get(key);
      next.delete(key);
      key = to;
    }
    rings.push(ring);
  }
  return rings;
}
// the pieces of rings that are not along the border
function contourLines(rings) {
  return rings.flatMap((ring) => {
    const cut = ring.findIndex((point, i) => point[2] && ring[(i + 1) % ring.length][2]);
    if (cut < 0) return [[...ring, ring[0]]];
    const turned = [...ring.slice(cut + 1), ...ring.slice(0, cut + 1)];
    const lines = [[]];
    turned.forEach((point, i) => {
      if (i && point[2] && turned[i - 1][2]) lines.push([]);
      lines[lines.length - 1].push(point);
    });
    return lines.filter((line) => line.length > 1);
  });
}

// names: of A and B.
// onBend(bend, resting): the reader moves the bend; it may be anywhere that is drawn.
// onHush(whether the handle has the focus and speaks for itself)
function curvePlane({ names, onBend, onHush }) {
  const svg = sv("svg", { class: "mcw-cv-map", role: "img" });
  const handle = el("div", {
    class: "mcw-cv-handle", role: "slider", tabindex: 0, "aria-valuemin": 0,
    "aria-label": "the bend: arrow keys move it in the plane, with Shift in larger steps",
    "data-lm-suppress-shortcuts": "true",
  });
  const node = el("div", { class: "mcw-cv-plane" }, svg, handle);
  const PAD = { left: 34, right: 10, top: 22, bottom: 24 };
  let entry = null;
  let heading = "";
  let [width, height, scale, left] = [0, 0, 1, PAD.left];
  let last = null;
  let moving = null;
  let grip = null;

  const lowest = () => [entry.x[0], entry.y[0]];
  const highest = () => [entry.x[entry.x.length - 1], entry.y[entry.y.length - 1]];
  const hold = (point) => point.map((value, k) =>
    Math.min(highest()[k], Math.max(lowest()[k], value)));
  const at = ([x, y]) => [left + (x - lowest()[0]) * scale, PAD.top + (highest()[1] - y) * scale];
  const d = (points) => points.map((p) => at(p).map((v) => v.toFixed(1)).join(" ")).join("L");
  const text = ([px, py], words, attributes) => {
    const out = sv("text", { x: px.toFixed(1), y: py.toFixed(1), ...attributes });
    out.textContent = words;
    return out;
  };
  const spot = (point, r, name) => {
    const [cx, cy] = at(point).map((v) => v.toFixed(1));
    return sv("circle", { cx, cy, r, class: name });
  };

  // the value of a contour line where there is most room for it
  function labelled(lines, level, taken) {
    const words = String(level);
    const [wide, tall] = [7 * words.length + 6, 14];
    let best = null;
    for (const line of lines) {
      if (line.length < 5) continue;
      for (const point of line) {
        const [px, py] = at(point);
        const [x1, x2] = [left + wide / 2 + 2, width - PAD.right - wide / 2 - 2];
        if (px < x1 || px > x2 || py < PAD.top + 10 || py > height - PAD.bottom - 10) continue;
        const room = Math.min(60, ...taken.map(([qx, qy]) =>
          Math.hypot((px - qx) / 1.4, (py - qy))));
        if (!best || room > best.room) best = { room, px, py };
      }
    }
    if (!best || best.room < tall) return null;
    taken.push([best.px, best.py]);
    return text([best.px, best.py + 4], words, { class: "mcw-cv-value", "text-anchor": "middle" });
  }

  function draw(newWidth) {
    width = newWidth;
    if (!entry || !width) return;
    const [across, up] = highest().map((value, k) => value - lowest()[k]);
    const room = width - PAD.left - PAD.right;
    scale = Math.min(room / across, 400 / up);
    left = PAD.left + (room - across * scale) / 2;
    height = Math.round(up * scale) + PAD.top + PAD.bottom;
    put(svg, { viewBox: `0 0 ${width} ${height}`, width, height }, []);
    const frame = [lowest(), highest()].map(at);
    const [[x1, y2], [x2, y1]] = frame;
    const logs = entry.loss.map((value) => Math.log(Math.max(value, 1e-12)));
    const taken = [[0, 0], [entry.length, 0], entry.bend].map(at);
    for (let t = 0; t <= 1; t += 0.1) {
      taken.push(at(curveAt(entry, entry.bend, t)), at([t * entry.length, 0]));
    }
    const [fills, strokes, values] = [[], [], []];
    const fill = Math.min(0.14, 0.75 / entry.levels.length);
    for (const level of entry.levels) {
      const rings = contourRings(entry.x, entry.y, logs, Math.log(level));
      const lines = contourLines(rings);
      const area = rings.map((ring) => `M${d(ring)}Z`).join("");
      fills.push(sv("path", { d: area, class: "mcw-cv-fill", "fill-opacity": fill.toFixed(3) }));
      strokes.push(sv("path", { d: lines.map((one) => `M${d(one)}`).join(""), class: "mcw-cv-contour" }));
      values.push(labelled(lines, level, taken));
    }
    const ticks = [];
    for (const k of [0, 1]) {
      const [lo, hi] = [lowest()[k], highest()[k]];
      const found = niceTicks(lo, hi, Math.max(2, ((hi - lo) * scale) / 60));
      for (const value of found.ticks) {
        const [px, py] = at(k ? [lowest()[0], value] : [value, lowest()[1]]);
        const place = k ? [px - 6, py + 4] : [px, py + 16];
        ticks.push(text(place, minus(value.toFixed(found.places)), {
          class: "mcw-tick", "text-anchor": k ? "end" : "middle",
        }));
        const [ex, ey] = k ? [px - 4, py] : [px, py + 4];
        ticks.push(sv("path", { d: `M${px} ${py}L${ex} ${ey}`, class: "mcw-axis" }));
      }
    }
    moving = sv("g", {});
    svg.replaceChildren(
      text([0, 13], heading, { class: "mcw-heading" }),
      ...fills, ...strokes, ...ticks,
      sv("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: "mcw-cv-frame" }),
      ...values.filter(Boolean), moving,
    );
    if (last) show(last);
  }

  // what moves: the curve, its control polygon, the steps of the bend, and the point at t
  function show({ bend, t, trail, words }) {
    last = { bend, t, trail, words };
    if (!moving) return;
    const [a, b] = [[0, 0], [entry.length, 0]];
    const places = Array.from({ length: 61 }, (_, i) => i / 60);
    const curve = (from) => `M${d(places.map((s) => curveAt(entry, from, s)))}`;
    const away = bend[1] < 0 ? -10 : 18;
    const fitted = entry.bend.every((value, k) => value === bend[k]);
    moving.replaceChildren(
      sv("path", { d: `M${d([a, b])}`, class: "mcw-cv-chord" }),
      sv("path", { d: `M${d([a, bend, b])}`, class: "mcw-cv-polygon" }),
      ...(fitted ? [] : [
        sv("path", { d: curve(entry.bend), class: "mcw-cv-fitted" }),
        spot(entry.bend, 3.5, "mcw-cv-was"),
      ]),
      sv("path", { d: curve(bend), class: "mcw-cv-halo" }),
      sv("path", { d: curve(bend), class: "mcw-cv-curve" }),
      ...(trail.length > 1 ? [
        sv("path", { d: `M${d(trail)}`, class: "mcw-cv-trail" }),
        ...trail.slice(0, -1).map((one) => spot(one, 3, "mcw-cv-step")),
      ] : []),
      ...[a, b].flatMap((end, i) => [
        spot(end, 5, "mcw-cv-end"),
        text(at(end).map((v, k) => v + (k ? away : 0)), names[i], {
          class: "mcw-cv-name", "text-anchor": "middle",
        }),
      ]),
      text(at(bend).map((v, k) => v - k * (away < 0 ? -28 : 20)), "C", {
        class: "mcw-cv-name", "text-anchor": "middle",
      }),
      spot(curveAt(entry, bend, t), 6, "mcw-dot mcw-scurve"),
    );
    const [px, py] = at(bend);
    handle.style.transform = `translate(${px.toFixed(1)}px, ${py.toFixed(1)}px)`;
    put(handle, {
      "aria-valuemin": lowest()[1].toFixed(2), "aria-valuemax": highest()[1].toFixed(2),
      "aria-valuenow": bend[1].toFixed(2), "aria-valuetext": words,
    }, []);
  }

  // ------------------------------------------------------------- the handle

  const under = ({ clientX, clientY }) => {
    const box = svg.getBoundingClientRect();
    return [
      lowest()[0] + (clientX - box.left - left) / scale,
      highest()[1] - (clientY - box.top - PAD.top) / scale,
    ];
  };
  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.focus({ preventScroll: true });
    handle.setPointerCapture(event.pointerId);
    // where the handle was taken, it stays under the hand
    const where = under(event);
    grip = last.bend.map((value, k) => value - where[k]);
  });
  handle.addEventListener("pointermove", (event) => {
    if (!grip) return;
    onBend(hold(under(event).map((value, k) => value + grip[k])), false);
  });
  const release = () => {
    if (!grip) return;
    grip = null;
    onBend(last.bend, true);
  };
  handle.addEventListener("pointerup", release);
  handle.addEventListener("pointercancel", release);
  handle.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    // the ends of a scale that has none in two dimensions: they must not scroll the page away
    if (event.key === "Home" || event.key === "End") event.preventDefault();
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const far = entry.length * (event.shiftKey ? 0.1 : 0.02);
    onBend(hold(last.bend.map((value, k) => value + far * way[k])), true);
  });
  handle.addEventListener("focus", () => onHush(true));
  handle.addEventListener("blur", () => onHush(false));

  return {
    node,
    draw,
    show,
    hold,
    use(next, words, label) {
      entry = next;
      heading = words;
      last = null;
      moving = null;
      svg.setAttribute("aria-label", label);
    },
  };
}
