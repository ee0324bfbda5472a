// A line chart over t in [0, 1], with the chord, the barrier and a marker that moves.

// where a chart's plotting area begins and ends; slider.css holds the same two numbers
const LEFT = 52;
const RIGHT = 18;

function niceTicks(lo, hi, wanted) {
  const raw = (hi - lo) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i += 1) {
    ticks.push(i * step);
  }
  const places = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  return { ticks, places };
}

// lines: [{name, style, t, y}], the one under discussion first; barrier: {t, value} of that line
function chart({ label, heading, lines, percent, barrier, barrierText, last, height, onPick }) {
  const node = sv("svg", { class: "mcw-chart", role: "img", "aria-label": label });
  const [main] = lines;
  const top = 26;
  const bottom = height - (last ? 22 : 8);
  const all = lines.flatMap((line) => line.y);
  const least = Math.min(...all);
  const most = Math.max(...all);
  let lo = least;
  let hi = most;
  const least_span = percent ? 0.02 : 1e-6 + 0.02 * Math.abs(most);
  if (percent) {
    hi = most > 0.8 ? 1 : most;
    lo = least < 0.5 * hi ? 0 : least - 0.24 * (hi - least);
  } else {
    hi = most + 0.08 * (most - least);
    lo = least >= 0 && least < 0.6 * most ? 0 : least - 0.08 * (most - least);
  }
  if (hi - lo < least_span) [lo, hi] = percent ? [hi - 0.02, hi] : [lo - least_span, hi + least_span];
  const { ticks, places } = niceTicks(lo, hi, Math.max(2, Math.floor((bottom - top) / 30)));
  const y = (value) => bottom - ((value - lo) / (hi - lo)) * (bottom - top);
  const tick = (value) =>
    percent
      ? `${(100 * value).toFixed(Math.max(0, places - 2))}\u00a0%`
      : minus(value.toFixed(places));
  let width = 0;
  let x = () => 0;
  let moving = null;
  let now = 0;

  const text = (px, py, words, attributes) => {
    const out = sv("text", { x: px.toFixed(1), y: py.toFixed(1), ...attributes });
    out.textContent = words;
    return out;
  };
  const rule = (x1, y1, x2, y2, name) =>
    sv("line", {
      x1: x1.toFixed(1), y1: y1.toFixed(1), x2: x2.toFixed(1), y2: y2.toFixed(1), class: name,
    });

  // how much of a label, as [x1, y1, x2, y2], lies on lines or beyond the chart
  function clutter(box) {
    let hits = 40 * (Number(box[0] < LEFT) + Number(box[2] > width - 2));
    hits += 40 * (Number(box[1] < 16) + Number(box[3] > bottom));
    // rather not where the marker stands at first
    if (box[0] - 6 < x(0.5) && box[2] + 6 > x(0.5)) hits += 0.5;
    for (let px = box[0] - 4; px <= box[2] + 4; px += 3) {
      const t = (px - LEFT) / (width - LEFT - RIGHT);
      for (const line of lines) {
        const py = y(valueAt(line.t, line.y, t));
        if (py > box[1] - 3 && py < box[3] + 3) hits += 1;
      }
    }
    return hits;
  }

  function drawBarrier() {
    if (!barrier) return [];
    const bx = x(barrier.t);
    const y1 = y(chordAt(main.y, barrier.t));
    const y2 = y(valueAt(main.t, main.y, barrier.t));
    const wide = 6.9 * barrierText.length;
    // beside the bar where there is room, on the side away from the middle first; else beyond
    // its ends
    const sides = barrier.t < 0.5 ? [-1, 1] : [1, -1];
    const places = [0.5, 0.3, 0.7, 0.15, 0.85].flatMap((f) =>
      sides.map((side) => ({ px: bx + (side > 0 ? 10 : -10 - wide), py: y1 + f * (y2 - y1) + 4 })));
    const up = y2 < y1 ? -1 : 1;
    const middle = Math.min(width - wide - 2, Math.max(LEFT, bx - wide / 2));
    for (const beyond of [y2 + up * 14, y2 + up * 22, y1 - up * 14, y1 - up * 22]) {
      for (const px of [middle, bx + 9, bx - 9 - wide]) places.push({ px, py: beyond + 4 });
    }
    const fits = Math.abs(y2 - y1) >= 24 ? places : places.slice(-12);
    const costs = fits.map(({ px, py }) => clutter([px, py - 10, px + wide, py + 3]));
    const { px, py } = fits[costs.indexOf(Math.min(...costs))];
    return [
      rule(bx, y1, bx, y2, "mcw-barrier"),
      sv("path", {
        class: `mcw-peak mcw-s${main.style}`,
        d: `M${bx.toFixed(1)} ${(y2 - 5.5).toFixed(1)}l5.5 5.5l-5.5 5.5l-5.5 -5.5z`,
      }),
      // a mark at the left of the bar ends at the bar
      px + wide < bx && px > bx - wide - 12
        ? text(bx - 10, py, barrierText, { class: "mcw-note mcw-strong", "text-anchor": "end" })
        : text(px, py, barrierText, { class: "mcw-note mcw-strong" }),
    ];
  }

  function drawChordName() {
    // at the place, away from the barrier, where the curve leaves most room
    let best = null;
    for (const t of [0.2, 0.26, 0.32, 0.68, 0.74, 0.8]) {
      if (barrier && Math.abs(t - barrier.t) < 0.1) continue;
      const px = y(chordAt(main.y, t));
      const gap = Math.min(...lines.map((l) => Math.abs(px - y(valueAt(l.t, l.y, t)))));
      if (!best || gap > best.gap) best = { t, gap, px };
    }
    if (!best || best.gap < 24) return [];
    const above = y(valueAt(main.t, main.y, best.t)) < best.px;
    return [
      text(x(best.t), best.px + (above ? -6 : 15), "chord", {
        class: "mcw-note", "text-anchor": "middle",
      }),
    ];
  }

  function draw(newWidth) {
    width = newWidth;
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.setAttribute("width", width);
    node.setAttribute("height", height);
    x = (t) => LEFT + t * (width - LEFT - RIGHT);
    const parts = [text(0, 12, heading, { class: "mcw-heading" })];
    for (const value of ticks) {
      parts.push(rule(LEFT, y(value), width - RIGHT, y(value), "mcw-grid"));
      parts.push(
        text(LEFT - 8, y(value) + 4, tick(value), { class: "mcw-tick", "text-anchor": "end" }),
      );
    }
    if (last) {
      for (const t of [0, 0.25, 0.5, 0.75, 1]) {
        parts.push(rule(x(t), bottom, x(t), bottom + 4, "mcw-axis"));
        parts.push(
          text(x(t), bottom + 17, String(t), { class: "mcw-tick", "text-anchor": "middle" }),
        );
      }
      parts.push(rule(LEFT, bottom, width - RIGHT, bottom, "mcw-axis"));
    }
    parts.push(
      rule(x(0), y(main.y[0]), x(1), y(main.y[main.y.length - 1]), "mcw-chord"),
      ...lines
        .map((line, i) =>
          sv("polyline", {
            class: `mcw-line mcw-s${line.style}${i ? "" : " mcw-main"}`,
            points: line.t
              .map((t, j) => `${x(t).toFixed(1)},${y(line.y[j]).toFixed(1)}`)
              .join(" "),
          }),
        )
        .reverse(),
      ...drawChordName(),
      ...drawBarrier(),
    );
    moving = sv("g", {});
    node.replaceChildren(...parts, moving);
    move(now);
  }

  function move(t) {
    now = t;
    if (!width) return;
    const px = x(t);
    const parts = [rule(px, top - 6, px, bottom, "mcw-now")];
    const [value, chord] = [valueAt(main.t, main.y, t), chordAt(main.y, t)];
    parts.push(rule(px, y(chord), px, y(value), `mcw-excess mcw-s${main.style}`));
    for (const line of [...lines].reverse()) {
      parts.push(
        sv("circle", {
          class: `mcw-dot mcw-s${line.style}`,
          cx: px.toFixed(1),
          cy: y(valueAt(line.t, line.y, t)).toFixed(1),
          r: line === main ? 5.5 : 4,
        }),
      );
    }
    moving.replaceChildren(...parts);
  }

  // the chart may be dragged as well; the range input stays the accessible way
  const pick = (event) => {
    const box = node.getBoundingClientRect();
    onPick((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT));
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    node.setPointerCapture(event.pointerId);
    pick(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) pick(event);
  });
  return { node, draw, move };
}

// redraws charts at the width they are given, so that lines and letters stay crisp
function fitCharts(box, charts) {
  const fit = () => {
    const width = Math.floor(box.clientWidth);
    if (width > 0) for (const one of charts) one.draw(width);
  };
  const observer = new ResizeObserver(fit);
  observer.observe(box);
  fit();
  return () => observer.disconnect();
}
