// Two small networks in the page: mixed and run on real images at every move of t.
// payload: {title, data, split, step, ends: [names], classes, shape: [c, h, w], images: {bits, type, scale},
// labels, shown: [indices], layers: [{inputs, outputs, relu}],
// paths: [{name, knots: [t], weights: [base64], moments}]}; moments: [mean, std] per
// channel that the networks standardise with, or null

function buildNetworkSlider(payload, model) {
  const { classes, shape, layers, shown, ends } = payload;
  const labels = bytesOf(payload.labels);
  const n = labels.length;
  const raw = payload.images.type === "uint8"
    ? bytesOf(payload.images.bits)
    : floatsOf(payload.images.bits);
  const pixels = Float32Array.from(raw, (value) => value / payload.images.scale);
  const size = pixels.length / n;
  const nets = payload.paths.map((path) => network(path, layers, pixels, n, shape, labels));
  const several = nets.length > 1;
  // the curves, found by running the networks here; null until then
  const curves = nets.map(() => null);
  let active = nets.length - 1;
  let selected = 0;
  let timer = 0;
  let charts = [];
  let release = () => {};

  const output = el("output", { class: "mcw-stats", "aria-live": "polite" });
  const figure = el("div", { class: "mcw-charts" });
  const knob = control({
    model, step: payload.step, output,
    label: `t, the weight of network ${ends[1]} in the mixture`,
    ends: ends.map((name) => `network ${name}`),
  });
  const switcher = several
    ? choice({
        legend: "path",
        options: payload.paths.map((path) => path.name),
        chosen: active,
        swatches: true,
        onChange(i) {
          active = i;
          drawCurve();
          move(model.get("t"));
        },
      })
    : null;

  // images: a group of radio buttons, so that the arrow keys go from one to the next
  const name = fresh("mcw-image");
  const tiles = shown.map((index, i) => {
    const canvas = el("canvas", {
      width: shape[2], height: shape[1], role: "img",
      class: shape[0] === 3 ? "mcw-photo" : "mcw-ink",
      "aria-label": `image of ${classes[labels[index]]}`,
    });
    paint(canvas, pixels, index * size, shape);
    const radio = el("input", {
      type: "radio", name, class: "mcw-sr", checked: i === selected,
      "data-lm-suppress-shortcuts": "true",
    });
    const verdict = el("span", { class: "mcw-verdict", "aria-hidden": "true" });
    radio.addEventListener("change", () => {
      selected = i;
      showImages();
    });
    return { index, radio, verdict, node: el("label", { class: "mcw-tile" }, radio, canvas, verdict) };
  });
  const bars = classes.map((label) => {
    const bar = el("span", { class: "mcw-bar" });
    const share = el("span", { class: "mcw-share" });
    const mark = el("span", { class: "mcw-mark" });
    return {
      bar, share, mark,
      node: el(
        "li", {}, el("span", { class: "mcw-class" }, label),
        el("span", { class: "mcw-track", "aria-hidden": "true" }, bar), share, mark,
      ),
    };
  });
  const barsTitle = el("div", { class: "mcw-heading" });
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-top" }, output, switcher),
    figure, knob.node,
    el(
      "div", { class: "mcw-panes" },
      el("fieldset", { class: "mcw-images" },
        el("legend", {}, `${shown.length} of the ${n} images, and what the mixture sees`),
        el("div", { class: "mcw-tiles" }, ...tiles.map((tile) => tile.node))),
      el("div", { class: "mcw-chances" }, barsTitle,
        el("ul", { class: classes.length > 10 ? "mcw-many" : null },
          ...bars.map((one) => one.node))),
    ),
    el(
      "p", { class: "mcw-caption" },
      "Both networks are in this page: at every move it mixes their weights, ",
      `(1 \u2212 t) ${ends[0]} + t ${ends[1]}, and runs the mixture on `, el("strong", {}, String(n)),
      ` ${payload.split} images of ${payload.data}. Loss: mean cross-entropy over them. `,
      "Barrier: max over t of L(t) \u2212 [(1 \u2212 t) L(0) + t L(1)], on a grid of 51 points.",
    ),
  );

  const probabilityText = (p) => (p < 0.0005 ? "0" : p > 0.9995 && p < 1 ? "1.000" : p.toFixed(3));

  function showImages() {
    const { predicted } = last;
    tiles.forEach(({ index, radio, verdict, node }) => {
      const truth = classes[labels[index]];
      const seen = classes[predicted[index]];
      const right = predicted[index] === labels[index];
      node.classList.toggle("mcw-is-wrong", !right);
      verdict.replaceChildren(seen, " ", el("b", {}, right ? "\u2713" : "\u2717"));
      radio.setAttribute(
        "aria-label", `image of ${truth}: predicted ${seen}, ${right ? "right" : "wrong"}`,
      );
    });
    const { index } = tiles[selected];
    const truth = labels[index];
    const shares = nets[active].probabilities(index);
    barsTitle.replaceChildren(`Probabilities for this image of ${classes[truth]}`);
    bars.forEach(({ bar, share, mark, node }, c) => {
      bar.style.width = `${100 * shares[c]}%`;
      share.textContent = probabilityText(shares[c]);
      const marks = [];
      if (c === predicted[index]) marks.push(c === truth ? "\u2713 predicted" : "\u2717 predicted");
      if (c === truth) marks.push("true");
      mark.textContent = c === truth && c === predicted[index] ? "\u2713 right" : marks.join(", ");
      node.className = `${c === truth ? "mcw-true" : ""} `
        + `${c === predicted[index] && c !== truth ? "mcw-is-wrong" : ""} `
        // of many classes only the likely ones are listed
        + `${bars.length > 10 && shares[c] < 0.02 && c !== truth ? "mcw-unlikely" : ""}`;
    });
  }

  let last = null;
  function move(t) {
    last = nets[active].run(t);
    const { loss, accuracy, right } = last;
    Object.assign(root.dataset, { t, loss, accuracy, images: n });
    stats(output, [
      ["t", tText(t)],
      [`${payload.split} loss`, lossText(loss)],
      ["accuracy", percentText(accuracy)],
      ["right", `${right} of ${n}`],
    ]);
    knob.show(
      t,
      `t ${tText(t)}: ${several ? `${payload.paths[active].name}, ` : ""}loss ${lossText(loss)}, `
        + `accuracy ${percentText(accuracy)}, ${right} of ${n} images right`,
    );
    showImages();
    for (const one of charts) one.move(t);
  }

  function drawCurve() {
    if (!curves[active]) return;
    const ordered = [active, ...curves.keys()].filter((i, k, all) => curves[i] && all.indexOf(i) === k);
    const { t, loss } = curves[active];
    const excess = loss.map((value, i) => value - chordAt(loss, t[i]));
    const value = Math.max(...excess);
    const place = t[excess.indexOf(value)];
    charts = [
      chart({
        label: `Line chart of the ${payload.split} loss of the mixture: `
          + `${lossText(loss[0])} at ${ends[0]}, ${lossText(loss[loss.length - 1])} at ${ends[1]}, `
          + `barrier ${lossText(value)} at t = ${tText(place)}.`,
        heading: `${payload.split} loss`,
        lines: ordered.map((i) => ({ style: i, t: curves[i].t, y: curves[i].loss })),
        barrier: value > 0 ? { t: place, value } : null,
        barrierText: `barrier ${lossText(value)}`,
        percent: false, last: true, height: 170, onPick: knob.setT,
      }),
    ];
    figure.replaceChildren(...charts.map((one) => one.node));
    release();
    release = fitCharts(figure, charts);
    charts[0].move(model.get("t"));
  }

  // runs the networks along their paths a few points at a time, so that the page stays free
  function findCurves() {
    const jobs = nets.flatMap((net, i) =>
      Array.from({ length: 51 }, (_, k) => ({ i, t: k / 50 })));
    const found = nets.map(() => ({ t: [], loss: [] }));
    const work = () => {
      const begun = performance.now();
      while (jobs.length && performance.now() - begun < 25) {
        const { i, t } = jobs.shift();
        found[i].t.push(t);
        found[i].loss.push(nets[i].run(t).loss);
      }
      if (jobs.length) {
        timer = setTimeout(work, 0);
      } else {
        found.forEach((curve, i) => (curves[i] = curve));
        drawCurve();
      }
      // what is shown belongs to t again
      move(model.get("t"));
    };
    timer = setTimeout(work, 0);
  }

  return {
    node: root,
    move,
    ready() {
      // an image that the mixture mistakes says most; else the first
      const { predicted } = nets[active].run(model.get("t"));
      const wrong = tiles.findIndex(({ index }) => predicted[index] !== labels[index]);
      selected = Math.max(0, wrong);
      tiles[selected].radio.checked = true;
      findCurves();
    },
    stop() {
      clearTimeout(timer);
      knob.stop();
      release();
    },
  };
}

const render = follow(buildNetworkSlider);
export default { render };
