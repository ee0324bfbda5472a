// What the sliders of the book share: making nodes, numbers as text, the control that moves t,
// and mounting on a page that has no kernel.  Python puts this file and chart.js in front of
// each slider's own.
// Data reach the page as text nodes and attributes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

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
// a name no other widget on the page has: each brings its own copy of this file, so the count is
// kept by the page
const fresh = (stem) => `${stem}-${(window.mcwCount = (window.mcwCount || 0) + 1)}`;

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

// ---------------------------------------------------------------- the control

const ICONS = { play: "M3 1.5v11l9.5-5.5z", pause: "M2.5 1.5h3v11h-3zM8.5 1.5h3v11h-3z" };

// The range input, a play button in the gutter at its left, and the names of the two ends.
// Whatever moves t — the keys, the mouse, the button, the kernel — goes through the model.
// symbol: what t is called where it is not called t.
function control({ model, step, label, ends, output, symbol = "t" }) {
  const invitation = `Play: move ${symbol} from 0 to 1`;
  const input = el("input", {
    type: "range", class: "mcw-range", min: "0", max: "1", step: String(step),
    "aria-label": label, "data-lm-suppress-shortcuts": "true",
  });
  const icon = sv("path", { d: ICONS.play });
  const play = el(
    "button",
    { type: "button", class: "mcw-play", "aria-label": invitation },
    sv("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, icon),
  );
  const node = el(
    "div", { class: "mcw-control" }, play, input,
    el("div", { class: "mcw-ends", "aria-hidden": "true" }, el("span", {}, ends[0]),
      el("span", {}, ends[1])),
  );
  let frame = 0;

  // The numbers are read out where nothing else says them.  The input speaks for itself while it
  // has the focus (aria-valuetext), and a value that plays would be read out at every step.
  function hush() {
    const quiet = frame || document.activeElement === input;
    output.setAttribute("aria-live", quiet ? "off" : "polite");
  }
  input.addEventListener("focus", hush);
  input.addEventListener("blur", () => output.setAttribute("aria-live", frame ? "off" : "polite"));

  function setT(t) {
    const places = Math.min(1, Math.max(0, Math.round(t / step) * step));
    model.set("t", Number(places.toFixed(6)));
    model.save_changes();
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    icon.setAttribute("d", ICONS.play);
    play.setAttribute("aria-label", invitation);
    hush();
  }
  function start() {
    const from = model.get("t") >= 1 ? 0 : model.get("t");
    const begun = performance.now();
    icon.setAttribute("d", ICONS.pause);
    play.setAttribute("aria-label", "Pause");
    const go = (time) => {
      const t = Math.min(1, from + Math.max(0, time - begun) / 5000);
      setT(t);
      if (t < 1 && node.isConnected) frame = requestAnimationFrame(go);
      else stop();
    };
    frame = requestAnimationFrame(go);
    hush();
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
