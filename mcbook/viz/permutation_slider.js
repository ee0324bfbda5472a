// One network whose hidden units stand in any order: its matrices, what it computes, and, where
// the payload says so, the straight line from it to its shuffled self.
// payload: {title, data, split, step, line: whether that is shown, seed, classes, shape: [c, h, w],
// images: {bits, type, scale}, labels, shown: [indices], layers: [{inputs, outputs, relu, bias}],
// weights: base64, moments: [mean, std] or null, scale: the |weight| of the full colour}
// beside it the trait permutation: permutation[layer][slot] is the unit that stands there

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

// which images are drawn, in words; wrong: whether one of them is misread
function casesText(payload, labels, wrong) {
  const counts = payload.classes.map((_, c) => payload.shown.filter((i) => labels[i] === c).length);
  const even = counts.every((count) => count === counts[0]) && counts[0];
  const which = !even ? "Images of each class in turn"
    : even === 1 ? "One image of every class" : `${even} images of every class`;
  return which + (wrong
    ? "; \u2717 marks those that the network misreads, before and after alike. " : ". ");
}

// ---------------------------------------------------------------- the units that are followed

// One hidden layer's: a field for its number, and where it stands, which is read out when it
// changes.  onPick(unit) for another unit.
function follower({ layer, name, width, onPick }) {
  const input = el("input", {
    type: "number", min: 0, max: width - 1, step: 1, "data-lm-suppress-shortcuts": "true",
    "aria-label": `unit to follow in ${name}, 0 to ${width - 1}`,
  });
  const place = el("span", { class: "mcw-place", "aria-live": "polite", "aria-atomic": "true" });
  let [unit, said] = [0, ""];
  input.addEventListener("change", () => {
    const asked = Number(input.value);
    const empty = input.value.trim() === "";
    const next = empty ? unit : Math.min(width - 1, Math.max(0, Math.round(asked)));
    onPick(next, empty
      ? `no number given: still unit ${unit}`
      : next === asked ? "" : `no unit ${minus(input.value)} (0 to ${width - 1}): now unit ${next}`);
  });
  return {
    node: el("div", { class: `mcw-follower mcw-f${layer % 3}` },
      el("label", {},
        el("span", { class: "mcw-key-line", "aria-hidden": "true" }), `${name}: unit`, input),
      place),
    show(now, slot, note) {
      unit = now;
      input.value = String(unit);
      const words = `is in slot ${slot}${note ? `; ${note}` : ""}`;
      // what stays as it was is not read out again
      if (said === unit + words) return;
      said = unit + words;
      place.replaceChildren(
        el("span", { class: "mcw-sr" }, `unit ${unit} of ${name} `), `is in slot ${slot}`,
        ...(note ? [el("span", { class: "mcw-note-said" }, `; ${note}`)] : []),
      );
    },
  };
}

// ---------------------------------------------------------------- all of it

function buildPermutationSlider(payload, model) {
  const { layers } = payload;
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

  const facts = el("output", { class: "mcw-stats", "aria-live": "polite" });
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

  const followers = widths.map((width, l) => follower({
    layer: l, width, name: `hidden layer${last > 1 ? ` ${l + 1}` : ""}`,
    onPick: (unit, note) => followUnit(l, unit, note),
  }));
  function followUnit(l, unit, note) {
    tracked[l] = unit;
    sayPlaces(l, note);
    maps.draw();
  }
  // what was said of one field is over when another is used
  function sayPlaces(layer, note) {
    followers.forEach(({ show }, l) =>
      show(tracked[l], orders[l].indexOf(tracked[l]), l === layer ? note : ""));
  }

  const cases = payload.shown.map((i) => ({ i, ...imageCase(payload, pixels, i, labels[i]) }));
  const name = fresh("mcw-cases");
  const wrong = payload.shown.some((i) => {
    const seen = own(before, i);
    return seen.indexOf(Math.max(...seen)) !== labels[i];
  });
  const mixed = new Float64Array(theta.length);
  const line = payload.line
    ? lineBelow({
      payload, model, n,
      at(t) {
        for (let i = 0; i < mixed.length; i += 1) mixed[i] = (1 - t) * theta[i] + t * other[i];
        return run(mixed);
      },
    })
    : null;
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    buttons, maps.node,
    el("div", { class: "mcw-below" }, ...followers.map((one) => one.node)),
    el("p", { class: "mcw-caption" },
      "A row of a matrix holds the weights into one unit",
      layers.some((layer) => layer.bias) ? " and, set apart, its bias" : "",
      "; a column the weights out of one unit or pixel. Units and slots are counted from 0; a click "
      + "on a row, in the last matrix on a column, follows that unit."),
    facts,
    el("div", { class: "mcw-name", id: name },
      `${cases.length} of the ${n} images, and what the reordered network sees`),
    el("div", { class: "mcw-shelf" },
      el("ul", { class: "mcw-cases", "aria-labelledby": name }, ...cases.map((one) => one.node))),
    el("p", { class: "mcw-caption" },
      casesText(payload, labels, wrong) + "Bars: the probability of each class; notches: before the "
      + "units moved. The network runs in this page, in double precision: sums are taken in another "
      + "order, and rounding is all that is left of a change."),
    line && line.node,
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
      ["orders in all", countText(widths)],
    ]);
    for (const { i, show } of cases) show(own(logits, i), own(before, i));
    sayPlaces();
    travel(animated);
    if (!line) return;
    line.renew();
    if (animated) move(model.get("t"));
  }

  function move(t) {
    if (line) Object.assign(root.dataset, line.move(t));
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
      maps.stop();
      if (line) line.stop();
    },
  };
}

const render = follow(buildPermutationSlider);
export default { render };
