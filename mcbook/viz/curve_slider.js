// A curve with one bend in its plane: the reader moves the bend, the page runs the curve.
// payload: {title, data, split, step, ends: [names], paths: [{name, kind, knot, length,
// bend: [x, y], x: [grid], y: [grid], loss: [row by row], levels}]} and, where networks run here,
// {networks: [base64], layers, shape, images, labels} with networks: [A, B, bend] and moments in
// every path; else in every path accuracy, and fitted and line: {t, loss, accuracy} where they
// were measured.

const AT_REST = 61;
const DRAGGED = [31, 16];

function buildCurveSlider(payload, model) {
  const { ends, split } = payload;
  const [A, B] = ends;
  const running = "networks" in payload;
  const several = payload.paths.length > 1;
  const networks = running
    ? payload.networks.map((text) => Float64Array.from(floatsOf(text)))
    : null;
  const n = running ? bytesOf(payload.labels).length : 0;
  let active = payload.paths.length - 1;
  let [frame, wanted, slow] = [0, 0, false];
  let shown = null;
  let observer = null;

  // a path is prepared when it is first looked at
  const ready = [];
  function current() {
    if (ready[active]) return ready[active];
    const entry = payload.paths[active];
    const source = running ? networkSource(entry, payload, networks) : gridSource(entry);
    const given = (one, bend) =>
      one ? summed(one.t, one.loss.map((loss, i) => ({ loss, accuracy: one.accuracy[i] })))
        : along(source, entry, bend, AT_REST);
    ready[active] = {
      entry, source, bend: entry.bend, trail: [], curve: null,
      fitted: given(entry.fitted, entry.bend),
      line: given(entry.line, straightBend(entry)),
    };
    return ready[active];
  }

  // ---------------------------------------------------------------- the parts

  const output = el("output", { class: "mcw-sr", "aria-live": "polite" });
  const facts = el("div", { class: "mcw-stats mcw-cv-facts" });
  const others = el("div", { class: "mcw-others" });
  const note = el("p", { class: "mcw-cv-note", role: "status" });
  const knob = control({
    model, step: payload.step, output,
    label: `t, the position on the curve from network ${A} to network ${B}`,
    ends: ends.map((name) => `network ${name}`),
  });
  const plane = curvePlane({
    names: ends,
    onBend: (bend, resting) => place(bend, resting),
    onHush: (quiet) => output.setAttribute("aria-live", quiet ? "off" : "polite"),
  });
  const figure = el("div", { class: "mcw-charts" });
  const button = (words, act) => {
    const node = el("button", { type: "button", class: "mcw-cv-button" }, words);
    node.addEventListener("click", act);
    return node;
  };
  const buttons = el(
    "div", { class: "mcw-cv-buttons", role: "group", "aria-label": "the bend" },
    button("fitted bend", () => jump(current().entry.bend)),
    button("straight line", () => jump(straightBend(current().entry))),
    button("step downhill", descend),
  );
  const switcher = several
    ? choice({
        legend: "path", options: payload.paths.map((path) => path.name), chosen: active,
        onChange(i) {
          active = i;
          note.replaceChildren();
          open();
        },
      })
    : null;
  const key = (name, words) => el(
    "span", {},
    sv("svg", { class: "mcw-swatch", width: 30, height: 10, "aria-hidden": "true" },
      sv("line", { x1: 1, x2: 29, y1: 5, y2: 5, class: `mcw-line mcw-s${name}` })),
    words,
  );
  const left = el("div", { class: "mcw-cv-left" }, plane.node, buttons, note);
  const right = el(
    "div", { class: "mcw-cv-right" }, figure, knob.node,
    el("div", { class: "mcw-cv-key", "aria-hidden": "true" },
      key("curve mcw-main", "curve"), key("line", "straight line"), key("fitted", "fitted curve")),
  );
  const panes = el("div", { class: "mcw-cv-panes" }, left, right);
  const caption = el("p", { class: "mcw-caption" });
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-top" }, facts, switcher), others, output,
    el("div", { class: "mcw-cv-shelf" }, panes), caption,
  );

  // ---------------------------------------------------------------- the bend

  // what a hand does is computed at most once a frame, the latest first
  function place(bend, resting) {
    const state = current();
    state.bend = bend;
    state.trail = [];
    note.replaceChildren();
    later(resting ? AT_REST : DRAGGED[Number(slow)]);
  }
  function later(count) {
    wanted = count;
    if (!frame) frame = requestAnimationFrame(() => refresh(wanted));
  }
  function jump(bend, trail = [], words = "") {
    Object.assign(current(), { bend, trail });
    note.replaceChildren(words);
    refresh(AT_REST);
  }
  function descend() {
    const { source, entry, bend, trail } = current();
    const mean = (at) => along(source, entry, at, DRAGGED[0]).mean;
    const h = running ? 1e-3 * entry.length : 0.5 * Math.min(
      entry.x[1] - entry.x[0], entry.y[1] - entry.y[0]);
    const hold = (at) => plane.hold(at);
    // the differences may look beyond what is drawn, where a grid has nothing to say
    const f = running ? mean : (at) => mean(hold(at));
    const step = downhill(f, bend, h, 0.1 * entry.length, hold);
    if (!step) {
      note.replaceChildren("No step downhill lowers the mean loss: the bend is at a lowest point of "
        + "what is drawn.");
      return;
    }
    const { to } = step;
    const before = current().curve.mean;
    jump(to, [...(trail.length ? trail : [bend]), to]);
    note.replaceChildren(
      `One step of ${Math.hypot(to[0] - bend[0], to[1] - bend[1]).toPrecision(2)} downhill: mean loss `
        + `${lossText(before)} \u2192 ${lossText(current().curve.mean)}.`,
    );
  }

  // ---------------------------------------------------------------- drawing

  function refresh(count) {
    cancelAnimationFrame(frame);
    frame = 0;
    const state = current();
    const begun = performance.now();
    state.curve = along(state.source, state.entry, state.bend, count);
    slow = performance.now() - begun > (slow ? 12 : 24);
    drawLosses();
    move(model.get("t"));
  }

  function drawLosses() {
    const { curve, line, fitted } = current();
    shown = chart({
      label: `Line chart of the ${split} loss along the curve: ${lossText(curve.loss[0])} at ${A}, `
        + `${lossText(curve.loss[curve.loss.length - 1])} at ${B}, barrier `
        + `${lossText(curve.barrier)} at t = ${tText(curve.place)}; along the straight line: `
        + `barrier ${lossText(line.barrier)}; along the fitted curve: ${lossText(fitted.barrier)}.`,
      heading: `${split} loss along t`,
      lines: [["curve", curve], ["fitted", fitted], ["line", line]].map(([style, { t, loss }]) =>
        ({ style, t, y: loss })),
      barrier: curve.barrier > 0 ? { t: curve.place, value: curve.barrier } : null,
      barrierText: `barrier ${lossText(curve.barrier)}`,
      percent: false, last: true, height: 240, onPick: knob.setT,
    });
    figure.replaceChildren(shown.node);
    fit(true);
  }

  function move(t) {
    const { entry, source, bend, trail, curve, line, fitted } = current();
    const { loss, accuracy } = source(...curveAt(entry, bend, t));
    Object.assign(root.dataset, {
      t, loss, accuracy, barrier: curve.barrier, mean: curve.mean, bendX: bend[0], bendY: bend[1],
      points: curve.t.length, lineBarrier: line.barrier, fittedBarrier: fitted.barrier,
      lineMean: line.mean, fittedMean: fitted.mean,
    });
    stats(facts, [
      ["t", tText(t)],
      [`${split} loss at t`, lossText(loss)],
      ["accuracy at t", percentText(accuracy)],
      ["barrier", lossText(curve.barrier), "mcw-lead mcw-scurve"],
      ["mean loss over t", lossText(curve.mean)],
    ]);
    const beside = (name, one) => el(
      "span", {}, `${name}: barrier ${lossText(one.barrier)}, mean loss ${lossText(one.mean)}`);
    others.replaceChildren(beside("straight line", line), beside("fitted curve", fitted));
    const before = several ? `${entry.name}, ` : "";
    const all = `barrier ${lossText(curve.barrier)}, mean loss ${lossText(curve.mean)}`;
    plane.show({
      bend, t, trail,
      words: `${before}bend ${minus(bend[0].toFixed(2))} along the line, ${minus(bend[1].toFixed(2))} `
        + `beside it: ${all}`,
    });
    if (shown) shown.move(t);
    const said = `t ${tText(t)}: ${before}loss ${lossText(loss)}, accuracy ${percentText(accuracy)}`;
    knob.show(t, said);
    // what is dragged is told when it rests
    if (curve.t.length >= AT_REST) {
      const told = `${said}; ${all}`;
      if (output.textContent !== told) output.textContent = told;
    }
  }

  // the active path, as the reader left it
  function open() {
    const { entry } = current();
    const flat = (entry.y[entry.y.length - 1] - entry.y[0])
      / (entry.x[entry.x.length - 1] - entry.x[0]) < 0.5;
    panes.classList.toggle("mcw-cv-flat", flat);
    plane.use(
      entry, `${split} loss in the plane of ${A}, ${B} and the bend`,
      `Map of the ${split} loss over the plane through ${A}, ${B} and the bend: from `
        + `${lossText(Math.min(...entry.loss))} to ${lossText(Math.max(...entry.loss))}, higher `
        + `where the colour is fuller, with lines at ${entry.levels.join(", ")}; the straight line `
        + `from ${A} to ${B}, ${lossText(entry.length)} long, and the curve.`,
    );
    caption.replaceChildren(...explained(entry));
    widths = [0, 0];
    refresh(AT_REST);
  }
  function explained(entry) {
    const poly = entry.kind === "polychain";
    return [
      poly ? `The curve goes straight from ${A} to the bend C and straight on to ${B}. `
        : `\u03b8(t) = (1 \u2212 t)\u00b2 ${A} + 2t(1 \u2212 t) C + t\u00b2 ${B}, with the bend C. `,
      "Drag C, or move it by the arrow keys: the curve stays in this plane. ",
      ...(running ? [
        `The networks ${A}, ${B} and C are in this page: at every move it mixes their weights and `
          + "runs the mixtures on ", el("strong", {}, String(n)), ` ${split} images of ${payload.data}. `,
        entry.own ? "" : "The plane was measured before, on images of its own choice. ",
      ] : [
        "No network runs in this page: losses and accuracies along the curve are ",
        el("strong", {}, "read off the grid"),
        ` of ${entry.x.length} \u00d7 ${entry.y.length} networks measured on the ${split} images of `
          + `${payload.data}, bilinear in between (of the loss its logarithm). `,
        entry.fitted ? `The fitted curve${entry.line ? " and the straight line" : ""} in the chart `
          + `${entry.line ? "were" : "was"} measured. ` : "",
      ]),
      "Barrier: max over t of L(t) \u2212 [(1 \u2212 t) L(0) + t L(1)]. Step downhill: a step of gradient "
        + "descent on the mean loss over t, in this plane; its dots stay until the bend is moved. "
        + "Axes: distance in weight space.",
    ];
  }

  // the drawings are made for the width that is there; anew: whatever it was before
  let widths = [0, 0];
  function fit(anew) {
    const found = [left, figure].map((one) => Math.floor(one.clientWidth));
    if (found[0] > 0 && found[0] !== widths[0]) plane.draw(found[0]);
    if (found[1] > 0 && shown && (anew || found[1] !== widths[1])) shown.draw(found[1]);
    widths = found;
  }

  return {
    node: root,
    move,
    ready() {
      open();
      observer = new ResizeObserver(() => fit(false));
      observer.observe(left);
    },
    stop() {
      cancelAnimationFrame(frame);
      knob.stop();
      if (observer) observer.disconnect();
    },
  };
}

const render = follow(buildCurveSlider);
export default { render };
