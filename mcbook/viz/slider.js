// What the sliders of the book share: making nodes, numbers as text, a line chart over
// t in [0, 1], the control that moves t, and mounting on a page that has no kernel.
// Python puts this file in front of path_slider.js or network_slider.js.
// Data reach the page as text nodes and attributes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";
// where a chart's plotting area begins and ends; slider.css holds the same two numbers
const LEFT = 52;
const RIGHT = 18;
let numbered = 0;

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) =>
  put(document.createElement(tag), attributes, children);
const sv = (tag, attributes, ...children) =>
  put(document.createElementNS(SVG, tag), attributes, children);
// every copy on a page gets names of its own, the same ones at every visit
const fresh = (stem) => `${stem}-${(numbered += 1)}`;

// ---------------------------------------------------------------- numbers

const minus = (text) => text.replace("-", "\u2212");

function lossText(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-4) return minus(x.toExponential(1));
  if (size < 1) return minus(x.toPrecision(3));
  return minus(x.toFixed(size < 10 ? 3 : size < 100 ? 2 : 1));
}
// losses that are compared with each other keep three places
const signedText = (x) => {
  const text = Math.abs(x).toFixed(Math.abs(x) < 10 ? 3 : 2);
  return (Number(text) === 0 ? "" : x < 0 ? "\u2212" : "+") + text;
};
const percentText = (x) => `${(100 * x).toFixed(1)}\u00a0%`;
const tText = (t) => t.toFixed(Math.abs(t * 100 - Math.round(t * 100)) < 1e-6 ? 2 : 3);

// linear between measured points
function valueAt(ts, ys, t) {
  let lo = 0;
  let hi = ts.length - 1;
  if (t <= ts[lo]) return ys[lo];
  if (t >= ts[hi]) return ys[hi];
  while (hi - lo > 1) {
    const middle = (lo + hi) >> 1;
    if (ts[middle] <= t) lo = middle;
    else hi = middle;
  }
  return ys[lo] + ((ys[hi] - ys[lo]) * (t - ts[lo])) / (ts[hi] - ts[lo]);
}
const chordAt = (ys, t) => (1 - t) * ys[0] + t * ys[ys.length - 1];

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

// ---------------------------------------------------------------- a chart over t

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
    lo = least < 0.5 * hi ? 0 : least - 0.12 * (hi - least);
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
      places.push({ px: middle, py: beyond + 4 });
    }
    const fits = Math.abs(y2 - y1) >= 24 ? places : places.slice(-4);
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

// ---------------------------------------------------------------- the control

const ICONS = { play: "M3 1.5v11l9.5-5.5z", pause: "M2.5 1.5h3v11h-3zM8.5 1.5h3v11h-3z" };

// The range input, a play button in the gutter at its left, and the names of the two ends.
// Whatever moves t — the keys, the mouse, the button, the kernel — goes through the model.
function control({ model, step, label, ends, output }) {
  const input = el("input", {
    type: "range", class: "mcw-range", min: "0", max: "1", step: String(step),
    "aria-label": label, "data-lm-suppress-shortcuts": "true",
  });
  const icon = sv("path", { d: ICONS.play });
  const play = el(
    "button",
    { type: "button", class: "mcw-play", "aria-label": "Play: move t from 0 to 1" },
    sv("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, icon),
  );
  const node = el(
    "div", { class: "mcw-control" }, play, input,
    el("div", { class: "mcw-ends", "aria-hidden": "true" }, el("span", {}, ends[0]),
      el("span", {}, ends[1])),
  );
  let frame = 0;

  function setT(t) {
    const places = Math.min(1, Math.max(0, Math.round(t / step) * step));
    model.set("t", Number(places.toFixed(6)));
    model.save_changes();
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    icon.setAttribute("d", ICONS.play);
    play.setAttribute("aria-label", "Play: move t from 0 to 1");
    output.setAttribute("aria-live", "polite");
  }
  function start() {
    const from = model.get("t") >= 1 ? 0 : model.get("t");
    const begun = performance.now();
    icon.setAttribute("d", ICONS.pause);
    play.setAttribute("aria-label", "Pause");
    // a moving value is not read out at every step
    output.setAttribute("aria-live", "off");
    const go = (time) => {
      const t = Math.min(1, from + Math.max(0, time - begun) / 5000);
      setT(t);
      if (t < 1 && node.isConnected) frame = requestAnimationFrame(go);
      else stop();
    };
    frame = requestAnimationFrame(go);
  }
  play.addEventListener("click", () => (frame ? stop() : start()));
  input.addEventListener("input", () => {
    if (frame) stop();
    setT(Number(input.value));
  });
  return {
    node,
    setT,
    stop: () => frame && stop(),
    show(t, words) {
      if (Number(input.value) !== t) input.value = String(t);
      input.setAttribute("aria-valuetext", words);
      input.style.setProperty("--mcw-t", String(t));
    },
  };
}

// the numbers above the chart: [[name, value, class]]
function stats(output, items) {
  output.replaceChildren(
    ...items.flatMap(([name, value, extra], i) => [
      // read aloud one after the other; a comma makes the pause
      i ? el("span", { class: "mcw-sr" }, ", ") : null,
      el(
        "span", { class: `mcw-stat ${extra || ""}` },
        el("span", { class: "mcw-key" }, name), " ", el("span", { class: "mcw-value" }, value),
      ),
    ]).filter(Boolean),
  );
}

// a row of radio buttons; swatch: the line drawn beside each name
function choice({ legend, options, chosen, onChange, swatches }) {
  const name = fresh("mcw-choice");
  return el(
    "fieldset", { class: "mcw-choice" }, el("legend", {}, legend),
    ...options.map((option, i) => {
      const radio = el("input", {
        type: "radio", name, value: String(i), checked: i === chosen,
        "data-lm-suppress-shortcuts": "true",
      });
      radio.addEventListener("change", () => onChange(i));
      return el(
        "label", {}, radio,
        swatches
          ? sv(
              "svg", { class: "mcw-swatch", width: 30, height: 10, "aria-hidden": "true" },
              sv("line", { x1: 1, x2: 29, y1: 5, y2: 5, class: `mcw-line mcw-main mcw-s${i}` }),
            )
          : null,
        el("span", {}, option),
      );
    }),
  );
}

// ---------------------------------------------------------------- with and without a kernel

// Builds the widget anew whenever its payload changes and moves it whenever t does.
// build(payload, model) gives {node, move(t), ready(), stop()}.
function follow(build) {
  return ({ model, el: host }) => {
    let current = null;
    let slow = false;
    let waiting = 0;
    const step = () => {
      waiting = 0;
      const begun = performance.now();
      current.move(model.get("t"));
      slow = performance.now() - begun > 12;
    };
    // where a move takes long, at most one a frame, always the latest
    const move = () => {
      if (waiting) return;
      if (slow) waiting = requestAnimationFrame(step);
      else step();
    };
    const rebuild = () => {
      if (current) current.stop();
      current = build(model.get("payload"), model);
      host.replaceChildren(current.node);
      current.ready();
      step();
    };
    model.on("change:payload", rebuild);
    model.on("change:t", move);
    rebuild();
    return () => {
      model.off("change:payload", rebuild);
      model.off("change:t", move);
      cancelAnimationFrame(waiting);
      current.stop();
    };
  };
}

// stands in for the model a kernel would keep
function standIn(state) {
  const listeners = new Map();
  return {
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      for (const heard of [...(listeners.get(`change:${name}`) || [])]) heard();
    },
    on: (event, heard) => listeners.set(event, [...(listeners.get(event) || []), heard]),
    off: (event, heard) =>
      listeners.set(event, (listeners.get(event) || []).filter((one) => one !== heard)),
    save_changes() {},
  };
}

// Replaces the plain table in every host with this name by the working widget.
// An error leaves the table where it is.
function mount(render, name, state) {
  for (const host of document.querySelectorAll(`[data-mcw="${name}"]`)) {
    if (host.dataset.mcwOn) continue;
    host.dataset.mcwOn = "yes";
    const table = [...host.childNodes];
    try {
      render({ model: standIn({ ...state }), el: host });
    } catch (error) {
      host.replaceChildren(...table);
      throw error;
    }
  }
}
