// One network whose hidden units stand in any order: its matrices, what it computes, and the
// straight line from it to its shuffled self.
// payload: {title, data, split, step, seed, classes, shape: [c, h, w],
// images: {bits, type, scale}, labels, shown: [indices], layers: [{inputs, outputs, relu, bias}],
// weights: base64, moments: [mean, std] or null, scale: the |weight| of the full colour}
// beside it the trait permutation: permutation[layer][slot] is the unit that stands there

const POINTS = 41;

// ---------------------------------------------------------------- numbers

const raised = (stem, power) =>
  el("span", {}, stem, el("span", { class: "mcw-sr" }, " to the power "), el("sup", {}, power));
function smallText(x) {
  if (x === 0) return "0";
  const [stem, power] = x.toExponential(1).split("e");
  return x >= 1e-3 ? x.toPrecision(2) : raised(`${stem} \u00d7 10`, minus(power));
}
// how many orders the hidden units have
function countText(widths) {
  const logs = widths.flatMap((n) => naturals(n).map((i) => Math.log10(i + 1)));
  const power = logs.reduce((a, b) => a + b, 0);
  const product = widths.map((n) => `${n}!`).join(" \u00b7 ");
  return power < 6
    ? `${product} = ${Math.round(10 ** power)}`
    : el("span", {}, `${product} \u2248 `, raised("10", power.toFixed(1)));
}

// ---------------------------------------------------------------- the images

// an image and the probabilities the network gives it; a notch where they were before
function imageCase(payload, pixels, index, label) {
  const { classes, shape } = payload;
  const size = shape[0] * shape[1] * shape[2];
  const canvas = el("canvas", {
    width: shape[2], height: shape[1], role: "img",
    class: shape[0] === 3 ? "mcw-photo" : "mcw-digit",
    "aria-label": `image of ${classes[label]}`,
  });
  paint(canvas, pixels, index * size, shape);
  const short = classes.length <= 10 && classes.every((name) => name.length < 3);
  const bars = classes.map((name, c) => {
    const bar = el("span", { class: c === label ? "mcw-fill mcw-own" : "mcw-fill" });
    const notch = el("span", { class: "mcw-notch" });
    return {
      bar, notch,
      node: el("span", { class: "mcw-column" },
        el("span", { class: "mcw-pillar" }, bar, notch), short ? el("span", {}, name) : null),
    };
  });
  const columns = el("div", { class: "mcw-columns", role: "img" }, ...bars.map((b) => b.node));
  const verdict = el("span", { class: "mcw-seen" });
  return {
    node: el("li", { class: short ? "mcw-case" : "mcw-case mcw-long" }, canvas, verdict, columns),
    show(now, before) {
      const best = now.indexOf(Math.max(...now));
      const right = best === label;
      verdict.replaceChildren(
        el("b", {}, `${classes[best]} ${right ? "\u2713" : "\u2717"}`), ` ${now[best].toFixed(3)}`,
      );
      verdict.classList.toggle("mcw-is-wrong", !right);
      bars.forEach(({ bar, notch }, c) => {
        bar.style.height = `${100 * now[c]}%`;
        notch.style.bottom = `${100 * before[c]}%`;
        notch.hidden = before[c] < 0.01;
      });
      const likely = naturals(classes.length).filter((c) => now[c] >= 0.0005);
      columns.setAttribute("aria-label", `probabilities for this image of ${classes[label]}: `
        + likely.map((c) => `${classes[c]} ${now[c].toFixed(3)}`).join(", "));
    },
  };
}

// ---------------------------------------------------------------- all of it

function buildPermutationSlider(payload, model) {
  const { layers, split } = payload;
  const last = layers.length - 1;
  const widths = layers.slice(0, last).map((layer) => layer.outputs);
  const labels = bytesOf(payload.labels);
  const n = labels.length;
  const { pixels, x } = decodeImages(payload);
  const theta = Float64Array.from(floatsOf(payload.weights));
  const run = runner(layers, x, labels);
  const before = run(theta).logits.slice();
  const classes = layers[last].outputs;
  const own = (logits, i) => chances(logits.subarray(i * classes, (i + 1) * classes));
  const random = dice(payload.seed + 1);
  const identity = widths.map(naturals);
  // per hidden layer, the norms of the weights into its units
  const norms = widths.map((width, l) => {
    const at = layers.slice(0, l).reduce((s, one) => s + (one.inputs + 1) * one.outputs, 0);
    const { inputs } = layers[l];
    return naturals(width).map((i) =>
      Math.hypot(...theta.subarray(at + i * inputs, at + (i + 1) * inputs)));
  });
  const bySize = norms.map((size) => naturals(size.length).sort((a, b) => size[b] - size[a]));
  // the largest unit is the easiest to see
  const tracked = bySize.map(([largest]) => largest);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let orders = identity;
  let other = theta;
  let slots = null;
  let frame = 0;
  let timer = 0;
  let charts = [];
  let release = () => {};

  const facts = el("output", { class: "mcw-stats", "aria-live": "polite" });
  const output = el("output", { class: "mcw-stats", "aria-live": "polite" });
  const figure = el("div", { class: "mcw-charts" });
  const knob = control({
    model, step: payload.step, output,
    label: "t, the place on the straight line from the network to its shuffled self",
    ends: ["the network", "its shuffled self"],
  });
  const maps = matrices(layers, theta, payload.scale, tracked, (l, slot) =>
    followUnit(l, orders[l][slot]));

  function reorder(next) {
    model.set("permutation", next);
    model.save_changes();
  }
  const button = (words, next, said) => {
    const node = el("button", { type: "button", class: "mcw-push", "aria-label": said }, words);
    node.addEventListener("click", () => reorder(next()));
    return node;
  };
  const buttons = el(
    "div", { class: "mcw-buttons", role: "group", "aria-label": "order of the hidden units" },
    ...widths.map((width, l) =>
      button(`Shuffle hidden layer${last > 1 ? ` ${l + 1}` : ""}`, () =>
        orders.map((order, k) => (k === l ? shuffled(width, random) : order)))),
    last > 1 ? button("Shuffle all", () => widths.map((width) => shuffled(width, random))) : null,
    button("Sort by size", () => bySize, "Sort by size, the norm of the weights into a unit"),
    button("Back", () => identity, "Back to the order it was trained in"),
  );

  // which units are followed
  const followers = widths.map((width, l) => {
    const input = el("input", {
      type: "number", min: 0, max: width - 1, step: 1, value: tracked[l],
      "data-lm-suppress-shortcuts": "true",
      "aria-label": `unit to follow in hidden layer ${l + 1}, 0 to ${width - 1}`,
    });
    const place = el("span", {});
    input.addEventListener("change", () => followUnit(l, Math.round(Number(input.value))));
    return {
      input, place,
      node: el("label", { class: `mcw-f${l % 3}` },
        el("span", { class: "mcw-key-line", "aria-hidden": "true" }),
        `hidden layer${last > 1 ? ` ${l + 1}` : ""}: unit`, input, place),
    };
  });
  function followUnit(l, unit) {
    if (unit >= 0 && unit < widths[l]) tracked[l] = unit;
    sayPlaces();
    maps.draw();
  }
  function sayPlaces() {
    followers.forEach(({ input, place }, l) => {
      input.value = String(tracked[l]);
      place.textContent = `is in slot ${orders[l].indexOf(tracked[l])}`;
    });
  }

  const cases = payload.shown.map((i) => ({ i, ...imageCase(payload, pixels, i, labels[i]) }));
  const name = fresh("mcw-cases");
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    buttons, maps.node,
    el("div", { class: "mcw-below" },
      ...followers.map((one) => one.node)),
    facts,
    el("div", { class: "mcw-name", id: name },
      `${cases.length} of the ${n} images, and what the reordered network sees`),
    el("ul", { class: "mcw-cases", "aria-labelledby": name }, ...cases.map((one) => one.node)),
    el("p", { class: "mcw-caption" },
      "A row of a matrix holds the weights into one unit",
      layers.some((layer) => layer.bias) ? " and, set apart, its bias" : "",
      "; a column the weights out of one unit or pixel. Units and slots are counted from 0; a click "
      + "on a row, in the last matrix on a column, follows that unit. Bars: the probability of each "
      + "class; notches: before the units moved. The images: of each class in turn the one the "
      + "network is least sure of. It runs in this page, in double precision: sums are taken in "
      + "another order, and rounding is all that is left of a change."),
    el("div", { class: "mcw-title mcw-second" },
      "Straight line from the network (t = 0) to its shuffled self (t = 1)"),
    el("div", { class: "mcw-top" }, output),
    figure, knob.node,
    el("p", { class: "mcw-caption" },
      "At t the weights are (1 \u2212 t) \u03b8 + t \u03c0(\u03b8), where \u03b8 is the network and "
      + "\u03c0(\u03b8) the same with its units in the order above. Loss: mean cross-entropy over ",
      el("strong", {}, String(n)), ` ${split} images of ${payload.data}. Barrier: max over t of `
      + "L(t) \u2212 [(1 \u2212 t) L(0) + t L(1)], on a grid of "
      + `${POINTS} points.`),
  );

  // the units travel from where they are to where they belong
  function travel(animated) {
    cancelAnimationFrame(frame);
    const goal = orders.map(inverse);
    const from = slots;
    const arrive = () => {
      slots = goal;
      delete root.dataset.moving;
      maps.draw(slots);
    };
    if (!animated || still.matches || !from) return arrive();
    const begun = performance.now();
    root.dataset.moving = "yes";
    const go = (time) => {
      const s = Math.min(1, Math.max(0, time - begun) / 1500);
      if (s === 1 || !root.isConnected) return arrive();
      const eased = s * s * (3 - 2 * s);
      slots = goal.map((ends, l) => ends.map((end, i) => from[l][i] + eased * (end - from[l][i])));
      maps.draw(slots);
      frame = requestAnimationFrame(go);
    };
    frame = requestAnimationFrame(go);
  }

  const mixed = new Float64Array(theta.length);
  function at(t) {
    for (let i = 0; i < mixed.length; i += 1) mixed[i] = (1 - t) * theta[i] + t * other[i];
    return run(mixed);
  }

  function rearrange(animated) {
    orders = model.get("permutation");
    other = arranged(theta, layers, orders);
    const { logits } = run(other);
    const change = logits.reduce((most, z, i) => Math.max(most, Math.abs(z - before[i])), 0);
    const distance = Math.sqrt(other.reduce((sum, w, i) => sum + (w - theta[i]) ** 2, 0));
    Object.assign(root.dataset, { change, distance });
    stats(facts, [
      [`largest change of any logit on ${n} images`, smallText(change)],
      ["distance in weight space from where it began", distance ? distance.toPrecision(3) : "0"],
      ["number of orders like this one", countText(widths)],
    ]);
    for (const { i, show } of cases) show(own(logits, i), own(before, i));
    sayPlaces();
    travel(animated);
    findCurve();
    if (animated) move(model.get("t"));
  }

  function move(t) {
    const { loss, accuracy, right } = at(t);
    Object.assign(root.dataset, { t, loss, accuracy, images: n });
    stats(output, [
      ["t", tText(t)],
      [`${split} loss`, lossText(loss)],
      ["accuracy", percentText(accuracy)],
      ["right", `${right} of ${n}`],
    ]);
    knob.show(t, `t ${tText(t)}: loss ${lossText(loss)}, accuracy ${percentText(accuracy)}, `
      + `${right} of ${n} images right`);
    for (const one of charts) one.move(t);
  }

  // a few points at a time, so that the page stays free
  function findCurve() {
    clearTimeout(timer);
    figure.classList.add("mcw-stale");
    const [t, loss] = [[], []];
    const work = () => {
      const begun = performance.now();
      while (t.length < POINTS && performance.now() - begun < 10) {
        t.push(t.length / (POINTS - 1));
        loss.push(at(t[t.length - 1]).loss);
      }
      if (t.length < POINTS) timer = setTimeout(work, 0);
      else drawCurve(t, loss);
    };
    timer = setTimeout(work, 0);
  }
  function drawCurve(t, loss) {
    const excess = loss.map((value, i) => value - chordAt(loss, t[i]));
    const value = Math.max(...excess);
    const place = t[excess.indexOf(value)];
    const there = value > 1e-9; // less is rounding
    charts = [
      chart({
        label: `Line chart of the ${split} loss along the straight line from the network to its `
          + `shuffled self: ${lossText(loss[0])} at both ends, `
          + (there ? `barrier ${lossText(value)} at t = ${tText(place)}.` : "no barrier."),
        heading: `${split} loss`,
        lines: [{ style: 0, t, y: loss }],
        barrier: there ? { t: place, value } : null,
        barrierText: `barrier ${lossText(value)}`,
        percent: false, last: true, height: 190, onPick: knob.setT,
      }),
    ];
    release();
    figure.replaceChildren(...charts.map((one) => one.node));
    figure.classList.remove("mcw-stale");
    release = fitCharts(figure, charts);
    charts[0].move(model.get("t"));
  }

  const heard = () => rearrange(true);
  model.on("change:permutation", heard);
  return {
    node: root,
    move,
    ready() {
      maps.fit();
      rearrange(false);
    },
    stop() {
      model.off("change:permutation", heard);
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      knob.stop();
      maps.stop();
      release();
    },
  };
}

const render = follow(buildPermutationSlider);
export default { render };
