// Features of A, of B, their blend, and those of the network mixed as far, layer by layer.
// payload: what network_slider.js says, and stages: [{name, layer, relu}], where features are
// read, in the order in which they are computed

const ZERO = "no features (all zero)";

// The features of all n images at every stage, anywhere on one path, in double precision; the
// arrays are used again at the next run.
function featuresOn(path, layers, x, n) {
  const [a, b] = path.weights.map(floatsOf);
  const mixed = new Float64Array(a.length);
  const steps = layers.map((layer) => {
    const room = () => new Float64Array(n * layer.outputs);
    return { layer: { ...layer, relu: false }, plain: room(), cut: layer.relu ? room() : null };
  });
  const stages = steps.flatMap(({ plain, cut }) => (cut ? [plain, cut] : [plain]));
  return (alpha) => {
    for (let i = 0; i < mixed.length; i += 1) mixed[i] = (1 - alpha) * a[i] + alpha * b[i];
    let [at, input] = [0, x];
    for (const { layer, plain, cut } of steps) {
      dense(input, n, layer, mixed, at, plain);
      if (cut) for (let i = 0; i < cut.length; i += 1) cut[i] = plain[i] > 0 ? plain[i] : 0;
      input = cut || plain;
      at += (layer.inputs + 1) * layer.outputs;
    }
    return stages;
  };
}

// Own features m against the blend of those of A and B, for one image; null where a vector that
// is divided by has no length.
function compared(own, a, b, alpha) {
  let [mm, tt, mt, aa, bb, ab] = [0, 0, 0, 0, 0, 0];
  for (let k = 0; k < own.length; k += 1) {
    const blend = (1 - alpha) * a[k] + alpha * b[k];
    mm += own[k] * own[k];
    tt += blend * blend;
    mt += own[k] * blend;
    aa += a[k] * a[k];
    bb += b[k] * b[k];
    ab += a[k] * b[k];
  }
  const there = mm > 0 && tt > 0;
  return {
    cos: there ? mt / Math.sqrt(mm * tt) : null,
    coefficient: there ? mt / tt : null,
    baseline: aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : null,
  };
}

// the mean of what is there, and of how many
function meanOf(values) {
  const some = values.filter((value) => value !== null);
  return { kept: some.length, mean: some.length ? some.reduce((s, v) => s + v, 0) / some.length : null };
}

function buildFeatureSlider(payload, model) {
  const { classes, shape, layers, stages, shown, ends } = payload;
  const labels = bytesOf(payload.labels);
  const n = labels.length;
  const several = payload.paths.length > 1;
  const { pixels } = decodeImages({ ...payload, moments: null });
  const size = pixels.length / n;
  const units = stages.map(({ layer }) => layers[layer].outputs);
  const nets = payload.paths.map((path) => {
    const { x } = decodeImages({ ...payload, moments: path.moments });
    const run = featuresOn(path, layers, x, n);
    return { run, a: run(0).map((v) => v.slice()), b: run(1).map((v) => v.slice()) };
  });
  // per path, stage and image the lowest and the highest feature over all α, and the means of
  // 1 − cos that the chart has to hold; filled in a few points at a time
  const extents = nets.map(() => stages.map(() => Array.from({ length: n }, () => [0, 0])));
  const heights = [];
  let active = nets.length - 1;
  let stage = Math.max(0, stages.findLastIndex(({ relu }) => relu));
  let selected = 0;
  let timer = 0;
  let release = () => {};

  const row = (values, s, i) => values[s].subarray(i * units[s], (i + 1) * units[s]);
  const measure = (net, own, alpha, s) => Array.from({ length: n }, (_, i) =>
    compared(row(own, s, i), row(net.a, s, i), row(net.b, s, i), alpha));
  const gaps = (list, key) => {
    const { mean } = meanOf(list.map((one) => one[key]));
    return mean === null ? null : Math.max(0, 1 - mean);
  };

  // ---------------------------------------------------------------- the controls

  const output = el("output", { class: "mcw-sr", "aria-live": "polite" });
  const now = () => move(model.get("t"));
  const paths = several
    ? choice({
        legend: "path", options: payload.paths.map((path) => path.name), chosen: active,
        swatches: true,
        onChange(i) {
          active = i;
          now();
        },
      })
    : null;
  const pick = (i) => {
    stage = i;
    now();
  };
  const layer = choice({
    legend: "layer", options: stages.map(({ name }) => name), chosen: stage, onChange: pick,
  });
  const radios = layer.querySelectorAll("input");
  const name = fresh("mcw-thumb");
  const thumbs = shown.map((index, i) => {
    const canvas = el("canvas", {
      width: shape[2], height: shape[1], "aria-hidden": "true",
      class: shape[0] === 3 ? "mcw-photo" : "mcw-sketch",
    });
    paint(canvas, pixels, index * size, shape);
    const radio = el("input", {
      type: "radio", name, class: "mcw-sr", checked: i === selected,
      "aria-label": `image of ${classes[labels[index]]}, number ${i + 1}`,
      "data-lm-suppress-shortcuts": "true",
    });
    radio.addEventListener("change", () => {
      selected = i;
      now();
    });
    return el("label", { class: "mcw-thumb" }, radio, canvas);
  });
  const knob = control({
    model, step: payload.step, output, symbol: "\u03b1",
    label: `\u03b1, the weight of network ${ends[1]} in the mixture`,
    ends: ends.map((one) => `network ${one}`),
  });

  // ---------------------------------------------------------------- what is shown

  const blendText = `(1\u2212\u03b1)\u00a0${ends[0]} + \u03b1\u00a0${ends[1]}`;
  const maps = [
    featureMap(ends[0], "its features"), featureMap(ends[1], "its features"),
    featureMap("blend", `${blendText} of the features`),
    featureMap("own", "features of the mixed network"),
  ];
  const key = el("p", { class: "mcw-caption mcw-sizes" });
  const alphaText = el("span", { class: "mcw-value" });
  const [mine, means] = [el("tr", {}), el("tr", {})];
  const heads = ["cos(own, blend)", "coefficient", `cos(${ends[0]}, ${ends[1]})`];
  const corner = el("td", {});
  const facts = el(
    "div", { class: "mcw-facts" },
    el("div", { class: "mcw-stat" },
      el("span", { class: "mcw-key" }, `\u03b1 (weight of ${ends[1]})`), " ", alphaText),
    el("table", {},
      el("thead", {}, el("tr", {}, corner, ...heads.map((one) => el("th", { scope: "col" }, one)))),
      el("tbody", {}, mine, means)),
  );
  const left = el("p", { class: "mcw-caption mcw-left-out" });
  const chart = layerChart(stages, (i) => {
    radios[i].checked = true;
    pick(i);
  });
  const figure = el("div", { class: "mcw-layer-chart" }, chart.node);
  const swatch = sv("svg", { class: "mcw-swatch", width: 30, height: 10, "aria-hidden": "true" });
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-choices" }, paths, layer),
    el("fieldset", { class: "mcw-thumbs" },
      el("legend", {}, shown.length < n ? `image: ${shown.length} of the ${n}` : "image"),
      el("div", {}, ...thumbs)),
    el("div", { class: "mcw-shelf-of-maps" },
      el("div", { class: "mcw-maps" }, ...maps.map((map) => map.node))),
    key, knob.node, output, facts, left,
    el("div", { class: "mcw-layer-head" },
      el("b", {}, "1 \u2212 cos by layer, before and after ReLU; mean over the images"),
      el("span", {}, swatch, "own and blend"),
      el("span", {},
        sv("svg", { class: "mcw-swatch", width: 30, height: 10, "aria-hidden": "true" },
          sv("path", { class: "mcw-between", d: "M1 5H29" })), `${ends[0]} and ${ends[1]}`)),
    figure,
    el("p", { class: "mcw-caption" },
      "Both networks are in this page: at every move it mixes their weights, ", `${blendText}, and `,
      "runs the mixture. ", el("b", {}, "own"), " are the features that come out, ",
      el("b", {}, "blend"), " the same mixture of the features of both ends. ",
      "cos = \u27e8own, blend\u27e9 / (|own| |blend|); coefficient = \u27e8own, blend\u27e9 / |blend|\u00b2; ",
      `cos(${ends[0]}, ${ends[1]}): between the features of the ends. Before the first ReLU own and `,
      "blend are equal. Means over ",
      el("strong", {}, String(n)), ` ${payload.split} images of ${payload.data}.`),
  );

  const number = (value, places) => (value === null ? ZERO : minus(value.toFixed(places)));
  const cells = (head, { cos, coefficient, baseline }) => [
    el("th", { scope: "row" }, head),
    ...[[cos, 4], [coefficient, 3], [baseline, 4]].map(([value, places]) =>
      el("td", { class: value === null ? "mcw-none" : null }, number(value, places))),
  ];

  function move(alpha) {
    const net = nets[active];
    const own = net.run(alpha);
    const all = stages.map((_, s) => measure(net, own, alpha, s));
    const index = shown[selected];
    const truth = labels[index];
    const here = all[stage][index];
    const [cos, coefficient, baseline] = ["cos", "coefficient", "baseline"].map((one) =>
      meanOf(all[stage].map((each) => each[one])));

    const [a, b, m] = [net.a, net.b, own].map((values) => [...row(values, stage, index)]);
    const blend = a.map((value, k) => (1 - alpha) * value + alpha * b[k]);
    // one scale for the four, and for every α once all have been seen
    const both = [...extents[active][stage][index], ...a, ...b, ...m];
    const range = { low: Math.min(...both), high: Math.max(...both) };
    const last = stages[stage].layer === layers.length - 1;
    const about = { stage: stages[stage].name, classes: last ? classes : null, truth };
    [a, b, blend, m].forEach((values, i) => maps[i].show(values, range, about));
    const largest = sizeText(Math.max(range.high, -range.low));
    key.replaceChildren(last && classes.length <= MOST_BARS
      ? "Length: the logit of a class; full: positive, hollow: negative. In bold the true class."
      : `A square for every unit, in the network\u2019s order. Area: size (largest ${largest}); full: `
        + "positive, hollow: negative; dot: zero.");

    alphaText.replaceChildren(tText(alpha));
    mine.replaceChildren(...cells(`this image of ${classes[truth]}`, here));
    means.replaceChildren(...cells(`mean over ${n} images`, {
      cos: cos.mean, coefficient: coefficient.mean, baseline: baseline.mean,
    }));
    const missing = [[cos.kept, "own features or blend"],
      [baseline.kept, `the features of ${ends[0]} or ${ends[1]}`]]
      .filter(([kept]) => kept < n)
      .map(([kept, what]) => `${n - kept} of ${n} images are left out where ${what} are all zero`);
    left.replaceChildren(missing.length ? `${stages[stage].name}: ${missing.join("; ")}.` : "");
    left.hidden = !missing.length;

    chart.show({
      alpha, chosen: stage, style: active, range: heights,
      own: all.map((list) => gaps(list, "cos")), ends: all.map((list) => gaps(list, "baseline")),
    });
    swatch.replaceChildren(
      sv("line", { x1: 1, x2: 29, y1: 5, y2: 5, class: `mcw-line mcw-main mcw-s${active}` }));
    const said = `\u03b1 ${tText(alpha)}, ${several ? `${payload.paths[active].name}, ` : ""}`
      + `${stages[stage].name}, image of ${classes[truth]}: cos ${number(here.cos, 4)}, coefficient `
      + `${number(here.coefficient, 3)}; mean cos ${number(cos.mean, 4)}`;
    if (output.textContent !== said) output.textContent = said;
    knob.show(alpha, said);
    for (const [word, value] of Object.entries({
      t: alpha, cos: here.cos, coefficient: here.coefficient, baseline: here.baseline,
      meanCos: cos.mean, meanCoefficient: coefficient.mean, meanBaseline: baseline.mean,
      kept: cos.kept, baselineKept: baseline.kept,
    })) {
      if (value === null) delete root.dataset[word];
      else root.dataset[word] = value;
    }
  }

  // walks all paths once, so that the scales hold wherever α goes; a few points at a time, so
  // that the page stays free
  function survey() {
    const jobs = nets.flatMap((_, i) => Array.from({ length: 11 }, (__, k) => ({ i, alpha: k / 10 })));
    const found = [];
    const work = () => {
      const begun = performance.now();
      while (jobs.length && performance.now() - begun < 20) {
        const { i, alpha } = jobs.shift();
        const own = nets[i].run(alpha);
        stages.forEach((_, s) => {
          extents[i][s].forEach((pair, j) => {
            for (const value of row(own, s, j)) {
              if (value < pair[0]) pair[0] = value;
              if (value > pair[1]) pair[1] = value;
            }
          });
          const list = measure(nets[i], own, alpha, s);
          found.push(gaps(list, "cos"), gaps(list, "baseline"));
        });
      }
      if (jobs.length) {
        timer = setTimeout(work, 0);
        return;
      }
      heights.splice(0, Infinity, ...found.filter((value) => value !== null));
      root.dataset.surveyed = "1";
      now();
    };
    timer = setTimeout(work, 0);
  }

  return {
    node: root,
    move,
    ready() {
      release = fitCharts(figure, [chart]);
      survey();
    },
    stop() {
      clearTimeout(timer);
      knob.stop();
      release();
    },
  };
}

const render = follow(buildFeatureSlider);
export default { render };
