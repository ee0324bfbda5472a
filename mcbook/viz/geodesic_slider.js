// Several paths between two networks, each with its own slider, and how far predictions move.
// payload: {title, data, split, step, ends: [names], points, classes, shape, images, labels, layers,
// moments, networks: [base64], paths: [{name, kind, knots, networks: [which]}],
// chosen: [{image, rival}]}

const CIRCLE = 61;

function buildGeodesicSlider(payload, model) {
  const { classes, shape, split, ends, paths, chosen } = payload;
  const [A, B] = ends;
  const labels = bytesOf(payload.labels);
  const n = labels.length;
  const several = paths.length > 1;
  const run = pathRunner(payload);
  const ts = paths.map(() => model.get("t"));
  let active = paths.length - 1;
  let together = true;
  let sphere = false;
  let found = null;
  let bound = 0;
  let timer = 0;
  let speeds = null;
  let observer = null;

  // ---------------------------------------------------------------- the parts

  const swatch = (style) => sv(
    "svg", { class: "mcw-swatch", width: 30, height: 10, "aria-hidden": "true" },
    sv("line", { x1: 1, x2: 29, y1: 5, y2: 5, class: style }));
  const swatchOf = (i) => swatch(`mcw-line mcw-main mcw-s${i}`);
  const output = el("output", { class: "mcw-sr", "aria-live": "polite" });

  const COLUMNS = [`${split} loss`, "accuracy", "length so far", "whole length", "length / bound"];
  const rows = paths.map((path, i) => {
    const cells = COLUMNS.map(() => el("td", {}, "\u2026"));
    return { cells, node: el("tr", {}, el("th", { scope: "row" }, swatchOf(i), path.name), ...cells) };
  });
  const boundCell = el("td", {}, "\u2026");
  const table = el(
    "table", { class: "mcw-geo-table" },
    el("thead", {}, el("tr", {}, el("td", {}), ...COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((row) => row.node), el(
      "tr", { class: "mcw-geo-bound" },
      el("th", { scope: "row" }, swatch("mcw-geo-circle"), "bound"),
      el("td", {}), el("td", {}), el("td", {}), boundCell, el("td", {}, "1"))),
  );

  // Each slider has a model of its own, and moves the one there is; `move` takes the others along.
  // Where it stands is kept at once: drawing may wait, and another slider be moved until then.
  function place(i, t) {
    active = i;
    ts[i] = t;
    if (model.get("t") === t) move(t);
    else model.set("t", t);
  }
  const knobs = paths.map((path, i) => control({
    model: {
      get: () => ts[i],
      set: (_, t) => place(i, t),
      save_changes: () => model.save_changes(),
    },
    step: payload.step, output,
    label: `t on the path \u201c${path.name}\u201d, from network ${A} to network ${B}`,
    ends: ends.map((name) => `network ${name}`),
  }));
  const places = paths.map(() => el("span", { class: "mcw-geo-t" }));
  const tracks = knobs.map((knob, i) => {
    // what is moved together is played by one
    const quiet = () => together && knobs.forEach((other) => other !== knob && other.stop());
    knob.node.addEventListener("click", quiet, true);
    knob.node.addEventListener("input", quiet, true);
    return el(
      "div", { class: `mcw-geo-track mcw-s${i}` },
      el("div", { class: "mcw-geo-name", "aria-hidden": "true" }, swatchOf(i),
        el("span", {}, paths[i].name), places[i]),
      knob.node);
  });
  const link = el("input", {
    type: "checkbox", checked: true, "data-lm-suppress-shortcuts": "true",
  });
  link.addEventListener("change", () => {
    together = link.checked;
    knobs.forEach((knob) => knob.stop());
    if (together) place(active, ts[active]);
  });
  const linked = several
    ? el("label", { class: "mcw-geo-link" }, link,
      el("span", {}, paths.length === 2 ? "move both together" : "move all together"))
    : null;
  const figure = el("div", { class: "mcw-charts mcw-geo-chart" });

  const { pixels } = decodeImages({ ...payload, moments: null });
  const size = pixels.length / n;
  const cards = chosen.map(({ image, rival }, j) => {
    const truth = labels[image];
    const canvas = el("canvas", {
      width: shape[2], height: shape[1], "aria-hidden": "true",
      class: shape[0] === 3 ? "mcw-photo" : "mcw-geo-ink",
    });
    paint(canvas, pixels, image * size, shape);
    const holder = el("div", { class: "mcw-geo-holder" });
    const shares = paths.map(() => el("td", {}));
    const lengths = paths.map(() => el("td", {}, "\u2026"));
    const least = el("td", {}, "\u2026");
    const head = (words) => el("th", { scope: "col" }, words);
    const numbers = el(
      "table", { class: "mcw-geo-numbers" },
      el("thead", {}, el("tr", {}, el("td", {}), head(`p(${classes[truth]}) at t`), head("length"))),
      el("tbody", {},
        ...paths.map((path, i) => el("tr", {},
          el("th", { scope: "row" }, swatchOf(i), el("span", { class: "mcw-sr" }, path.name)),
          shares[i], lengths[i])),
        el("tr", {},
          el("th", { scope: "row" }, swatch("mcw-geo-circle"), el("span", { class: "mcw-sr" }, "great circle")),
          el("td", {}), least)));
    return {
      image, truth, rival, holder, shares, lengths, least, picture: null,
      node: el("div", { class: "mcw-geo-card", role: "group",
        "aria-label": `an image of ${classes[truth]}, number ${j + 1}` }, canvas, holder, numbers),
    };
  });
  const shelf = el("div", { class: "mcw-geo-cards" }, ...cards.map((card) => card.node));
  const view = choice({
    legend: "drawn as", options: ["probabilities p", "\u221ap, on the sphere"], chosen: 0,
    onChange(i) {
      sphere = i === 1;
      root.dataset.sphere = i;
      drawCards();
    },
  });
  const mark = (name, words) => el("span", {}, sv(
    "svg", { width: 10, height: 10, "aria-hidden": "true" },
    sv("circle", { cx: 5, cy: 5, r: 3.5, class: name })), words);
  const key = el(
    "div", { class: "mcw-geo-key", "aria-hidden": "true" },
    ...paths.map((path, i) => el("span", {}, swatchOf(i), path.name)),
    el("span", {}, swatch("mcw-geo-circle"), "great circle"),
    mark("mcw-geo-a", A), mark("mcw-geo-b", B));

  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-geo-shelf" }, table), output, figure, el("div", { class: "mcw-geo-tracks" }, ...tracks), linked,
    el("div", { class: "mcw-geo-head" },
      el("div", { class: "mcw-geo-heading" },  cards.length === 1
        ? `Where the prediction for one of the ${n} images moves`
        : `Where the predictions for ${cards.length} of the ${n} images move`), view),
    key, shelf,
    el(
      "p", { class: "mcw-caption" },
      "The networks are in this page: at every move it mixes the control points of the paths and runs "
        + "the mixtures on ", el("strong", {}, String(n)), ` ${split} images of ${payload.data}. `,
      "Distance of two predictions: d = 4 arcsin(\u2016\u221ap \u2212 \u221aq\u2016 / 2). Length: the sum of "
        + "\u221a(mean d\u00b2 over the images) over ", String(payload.points - 1), " steps of t; speed: the "
        + `same per unit of t; bound: \u221a(mean d\u00b2) from ${A} to ${B}, which no path goes below. `,
      "A triangle groups the classes: the true one, the rival that comes highest along the paths, and "
        + "all others together; on its faint line the true class and the rival are equally probable. "
        + "The great circle is the shortest way of this one prediction, whatever network makes it; the "
        + "lengths below a triangle are those of this image alone. The points \u221ap lie on a sphere, "
        + "drawn as seen from the middle of three corners: lengths on it are half of those counted here.",
    ),
  );

  // ---------------------------------------------------------------- what is shown

  const cut = (roots, { image }) => roots.slice(image * classes.length, (image + 1) * classes.length);
  const groups = (roots, { truth, rival }) => grouped(roots, truth, rival);
  const shareText = (p) => (p < 0.0005 ? "< 0.001" : p > 0.9995 && p < 1 ? "1.000" : p.toFixed(3));
  const soFar = (i) => valueAt(found[i].t, found[i].length, ts[i]);
  const whole = (i) => found[i].length[found[i].length.length - 1];

  function move(t) {
    if (together) ts.fill(t);
    else ts[active] = t;
    const here = paths.map((path, i) => run(path, ts[i]));
    const said = here.map(({ loss, accuracy }, i) => {
      const { cells } = rows[i];
      cells[0].textContent = lossText(loss);
      cells[1].textContent = percentText(accuracy);
      places[i].textContent = `t = ${tText(ts[i])}`;
      Object.assign(root.dataset, { [`t${i}`]: ts[i], [`loss${i}`]: loss, [`accuracy${i}`]: accuracy });
      if (found) {
        cells[2].textContent = lossText(soFar(i));
        root.dataset[`sofar${i}`] = soFar(i);
      }
      const far = found ? `, length so far ${lossText(soFar(i))} of ${lossText(whole(i))}` : "";
      return `${several ? `${paths[i].name}, ` : ""}t ${tText(ts[i])}: loss ${lossText(loss)}, `
        + `accuracy ${percentText(accuracy)}${far}`;
    });
    said.forEach((words, i) => knobs[i].show(ts[i], words));
    const told = together ? said.join("; ") : said[active];
    if (output.textContent !== told) output.textContent = told;
    for (const card of cards) {
      const points = here.map(({ roots }) => groups(cut(roots, card), card));
      points.forEach(([p], i) => { card.shares[i].textContent = shareText(p); });
      if (card.picture) card.picture.move(points);
    }
    if (speeds) speeds.move(ts);
  }

  // once all paths have been followed
  function complete() {
    bound = meanDistance(found[0].start, found[0].last, classes.length);
    Object.assign(root.dataset, { bound, ready: 1 });
    boundCell.textContent = lossText(bound);
    rows.forEach(({ cells }, i) => {
      cells[3].textContent = lossText(whole(i));
      cells[4].textContent = bound > 0 ? (whole(i) / bound).toFixed(2) : "\u2013";
      root.dataset[`length${i}`] = whole(i);
    });
    const fastest = (i) => Math.max(...found[i].speed);
    speeds = speedChart({
      label: `Line chart of the Fisher speed along t. ${paths.map((path, i) =>
        `${path.name}: between ${lossText(Math.min(...found[i].speed))} and ${lossText(fastest(i))}, `
          + `fastest at t = ${tText(found[i].middle[found[i].speed.indexOf(fastest(i))])}, length `
          + lossText(whole(i))).join("; ")}. The bound is ${lossText(bound)}.`,
      heading: "Fisher speed along t (area: length)",
      lines: found.map(({ speed, middle }, i) => ({ style: i, speed, middle })),
      bound,
      onPick: (t) => knobs[active].setT(t),
    });
    figure.replaceChildren(speeds.node);
    cards.forEach((card, j) => {
      const { truth, rival } = card;
      const ways = found.map(({ ways: all }, i) => ({
        style: i, points: all[j].map((roots) => groups(roots, card)),
      }));
      const [start, last] = [found[0].start, found[0].last].map((roots) => cut(roots, card));
      const circle = greatCircle(start, last, CIRCLE).map((roots) => groups(roots, card));
      const least = fisherDistance(start, last, 0, classes.length);
      card.least.textContent = lossText(least);
      card.lengths.forEach((cell, i) => { cell.textContent = lossText(found[i].own[j]); });
      const lowest = paths.map((path, i) =>
        `along ${path.name} at least ${shareText(Math.min(...ways[i].points.map(([p]) => p)))}`);
      card.picture = triangle({
        corners: [`true: ${classes[truth]}`, `rival: ${classes[rival]}`, "others"], ways, circle,
        label: `The prediction for an image of ${classes[truth]} in a triangle of ${classes[truth]}, its `
          + `rival ${classes[rival]} and all other classes: probability of ${classes[truth]} `
          + `${shareText(start[truth] ** 2)} at ${A}, ${shareText(last[truth] ** 2)} at ${B}, `
          + `${lowest.join(", ")}; the great circle is ${lossText(least)} long.`,
      });
      card.holder.replaceChildren(card.picture.node);
    });
    widths = [0, 0];
    fit();
    move(model.get("t"));
  }

  // follows the paths a few points at a time, so that the page stays free
  function walk() {
    const all = paths.map((path) =>
      survey(run, path, payload.points, classes.length, chosen.map(({ image }) => image)));
    let i = 0;
    const work = () => {
      const begun = performance.now();
      while (i < all.length && performance.now() - begun < 25) if (all[i].next()) i += 1;
      if (i < all.length) {
        timer = setTimeout(work, 0);
        return;
      }
      found = all;
      complete();
    };
    timer = setTimeout(work, 0);
  }

  // the drawings are made for the width that is there
  let widths = [0, 0];
  function drawCards() {
    for (const { picture, holder } of cards) {
      if (picture) picture.draw(Math.min(220, Math.floor(holder.clientWidth)), sphere);
    }
  }
  function fit() {
    if (!speeds) return;
    const there = [figure, cards[0].holder].map((one) => Math.floor(one.clientWidth));
    if (there[0] > 0 && there[0] !== widths[0]) speeds.draw(there[0]);
    if (there[1] > 0 && there[1] !== widths[1]) drawCards();
    widths = there;
  }

  return {
    node: root,
    move,
    ready() {
      observer = new ResizeObserver(fit);
      observer.observe(figure);
      walk();
    },
    stop() {
      clearTimeout(timer);
      knobs.forEach((knob) => knob.stop());
      if (observer) observer.disconnect();
    },
  };
}

const render = follow(buildGeodesicSlider);
export default { render };
