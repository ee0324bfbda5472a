// Charts over the ticks of a walk, on a logarithmic scale; with slider.js, chart.js and drawing.js.

// The numbers at a logarithmic axis from lo to hi, at most so many: of 1-2-5, 1-3 and 1 the
// densest that fits, else every second, third... power of ten.
function logTicks(lo, hi, most) {
  const marks = (digits, step) => {
    const found = [];
    for (let k = Math.floor(Math.log10(lo)); 10 ** k <= hi; k += 1) {
      if (k % step) continue;
      for (const digit of digits) {
        const value = Number(`${digit}e${k}`);
        if (value >= lo && value <= hi) found.push(value);
      }
    }
    return found;
  };
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const found = marks(digits, 1);
    if (found.length <= most) return found;
  }
  let step = 2;
  while (marks([1], step).length > most) step += 1;
  return marks([1], step);
}

// lines: [{ticks, y, style, name, extra, dots}], y null where nothing was measured; begins: the ticks after
// which a stage begins; level: {value, words}, a line across; floor: what is less lies at the
// bottom; say: a number as text.
function tickChart({ label, heading, lines, total, begins, level, floor, say, last, height, onPick }) {
  const node = sv("svg", { class: "mcw-chart", role: "img", "aria-label": label });
  const moving = sv("g", {});
  const top = last ? 26 : 42;
  const bottom = height - (last ? 22 : 8);
  const known = [...lines.flatMap((line) => line.y), level ? level.value : null]
    .filter((value) => value > 0);
  const most = Math.max(...known, floor * 10);
  const least = Math.min(Math.max(Math.min(...known, most), floor), most / 3);
  const [lo, hi] = [least / 1.25, most * 1.25];
  const marks = logTicks(lo, hi, Math.max(2, Math.floor((bottom - top) / 24)));
  const y = (value) =>
    bottom - (Math.log(Math.max(value, lo) / lo) / Math.log(hi / lo)) * (bottom - top);
  let [width, now] = [0, { tick: 0, dots: [] }];
  const x = (tick) => LEFT + (tick / total) * (width - LEFT - RIGHT);
  const at = (tick, value) => `${x(tick).toFixed(1)} ${y(value).toFixed(1)}`;

  // pieces between what was not measured
  function d({ ticks, y: values }) {
    let pen = "M";
    let out = "";
    values.forEach((value, i) => {
      if (value === null) pen = "M";
      else {
        out += pen + at(ticks[i], value);
        pen = "L";
      }
    });
    return out;
  }
  const dot = (tick, value, style, r) => {
    const [cx, cy] = at(tick, value).split(" ");
    return sv("circle", { cx, cy, r, class: `mcw-dot ${style}` });
  };

  // the words beside the line across: above or below it, at the end where least is drawn
  function levelName() {
    const wide = 6.6 * level.words.length;
    const places = [-5, 14].flatMap((down) => [LEFT + 5, width - RIGHT - 3].map((px) => ({ px, down })));
    const clutter = places.map(({ px, down }) => {
      const from = px > LEFT + 5 ? px - wide : px;
      const middle = y(level.value) + down - 4;
      const hits = lines.flatMap((line) => line.ticks.filter((tick, i) => line.y[i] !== null
        && x(tick) > from && x(tick) < from + wide && Math.abs(y(line.y[i]) - middle) < 9));
      return hits.length + (middle + 6 > bottom || middle < top ? 1e6 : 0);
    });
    const { px, down } = places[clutter.indexOf(Math.min(...clutter))];
    return svgText(px, y(level.value) + down, level.words,
      { class: "mcw-note", "text-anchor": px > LEFT + 5 ? "end" : "start" });
  }

  function draw(newWidth) {
    width = newWidth;
    put(node, { viewBox: `0 0 ${width} ${height}`, width, height }, []);
    const parts = [svgText(0, 12, heading, { class: "mcw-heading" })];
    for (const value of marks) {
      parts.push(svgLine([LEFT, y(value)], [width - RIGHT, y(value)], "mcw-grid"));
      parts.push(svgText(LEFT - 8, y(value) + 4, say(value), { "text-anchor": "end" }));
    }
    for (const tick of begins) {
      parts.push(svgLine([x(tick), top - 8], [x(tick), bottom], "mcw-walk-stage"));
    }
    if (last) {
      const step = niceTicks(0, total, Math.max(4, Math.floor(width / 90))).ticks;
      for (const tick of step.filter((value) => Number.isInteger(value))) {
        parts.push(svgLine([x(tick), bottom], [x(tick), bottom + 4], "mcw-axis"));
        parts.push(svgText(x(tick), bottom + 17, String(tick), { "text-anchor": "middle" }));
      }
    } else if (begins.length) {
      // the numbers of the stages, where they have room
      const edges = [0, ...begins, total];
      const wide = edges.slice(1).map((edge, i) => x(edge) - x(edges[i]));
      const words = wide[0] > 56 ? "stage 1" : "1";
      wide.forEach((room, i) => {
        if (room < 12) return;
        const place = x((edges[i] + edges[i + 1]) / 2);
        parts.push(svgText(place, top - 8, i ? String(i + 1) : words, { "text-anchor": "middle" }));
      });
    }
    parts.push(svgLine([LEFT, bottom], [width - RIGHT, bottom], "mcw-axis"));
    if (level) parts.push(svgLine([LEFT, y(level.value)], [width - RIGHT, y(level.value)], "mcw-walk-level"));
    for (const line of [...lines].reverse()) {
      if (line.dots) {
        line.y.forEach((value, i) => {
          if (value !== null) parts.push(dot(line.ticks[i], value, line.style, 1.8));
        });
      } else parts.push(sv("path", { class: `mcw-line ${line.style}`, style: line.extra, d: d(line) }));
    }
    if (level) parts.push(levelName());
    node.replaceChildren(...parts, moving);
    move(now.tick, now.dots);
  }

  // dots: [{value, style}] at the tick
  function move(tick, dots) {
    now = { tick, dots };
    if (!width) return;
    moving.replaceChildren(
      svgLine([x(tick), top - 6], [x(tick), bottom], "mcw-now"),
      ...dots.filter(({ value }) => value !== null)
        .map(({ value, style }) => dot(tick, value, style, 4.5)),
    );
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
