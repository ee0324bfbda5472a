// A layer-wise walk, tick by tick.
// payload: {title, ends: [names], total, ticks, stages: [{first, upto, words}], distance, rows: [{name, stage,
// look, thin, share}], left_out, stage, rounds, most, before, after, left, threshold, closing, converged,
// shortfalls, full: {tick, loss}}; share, stage and what follows: a number for each of the ticks.

function buildWalkSlider(payload, model) {
  const { ends, total, ticks, stages, rows, threshold, full } = payload;
  const [A, B] = ends;
  const last = ticks.length - 1;
  const measured = payload.after.some((value, i) => i && value !== null);
  let charts = [];
  let release = () => {};

  // two or three digits, as Python's percent_left
  const shareText = (share) => {
    const value = 100 * share;
    return `${value.toFixed(value >= 9.95 || value === 0 ? 0 : value >= 0.995 ? 1 : 2)}\u00a0%`;
  };
  // colour and dashes; after the last colour they start again with the next dashes
  const DASHES = ["none", "7 4", "2 3", "10 3 2 3", "14 4"];
  const styleOf = ({ look, thin }) => `mcw-s${look % 5}${thin ? " mcw-walk-thin" : ""}`;
  const dashOf = ({ look }) => `stroke-dasharray: ${DASHES[(look + Math.floor(look / 5)) % 5]}`;
  const swatch = (style, dash) => sv(
    "svg", { class: "mcw-swatch", width: 24, height: 10, "aria-hidden": "true" },
    sv("line", { x1: 1, x2: 23, y1: 5, y2: 5, class: `mcw-line ${style}`, style: dash }));

  // long names may break behind a dot
  const breakable = (name) => name.split(/(?<=\.)/).flatMap((part, i) => (i ? [el("wbr", {}), part] : [part]));

  // ---------------------------------------------------------------- the parts

  const output = el("output", { class: "mcw-stats mcw-walk-stats", "aria-live": "polite" });
  const figure = el("div", { class: "mcw-charts" });
  const knob = control({
    model, step: 1 / last, output, symbol: "the share of ticks",
    label: `tick of the walk from ${A} to ${B}`,
    ends: [A, `tick ${total}`],
  });

  const widest = Math.max(1, ...rows.flatMap((row) => row.share));
  const bars = rows.map((row) => {
    const mark = el("td", {});
    const bar = el("span", { class: `mcw-walk-bar mcw-s${row.look % 5}` });
    const value = el("td", {});
    const node = el(
      "tr", {}, mark,
      el("th", { scope: "row" }, el("span", { class: "mcw-walk-name" },
        swatch(styleOf(row), dashOf(row)), el("span", {}, ...breakable(row.name)))),
      el("td", { class: "mcw-walk-track", "aria-hidden": "true" },
        el("span", { class: "mcw-walk-whole", style: `width: ${(100 / widest).toFixed(2)}%` }), bar),
      value);
    return { row, node, mark, bar, value };
  });
  const table = el(
    "table", { class: "mcw-walk-rows" },
    el("colgroup", {}, ...["mark", "label", "bars", "value"].map((name) => el("col", { class: `mcw-walk-${name}` }))),
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "\u25b8", el("span", { class: "mcw-sr" }, " moves now")),
      el("th", { scope: "col" }, el("span", { "aria-hidden": "true" }, "moves now"), el("span", { class: "mcw-sr" }, "layer")),
      el("th", { scope: "colgroup", colspan: 2 }, "distance left"))),
    el("tbody", {}, ...bars.map(({ node }) => node)));

  const lossLines = [
    { name: "after retraining", style: "mcw-s0 mcw-walk-after", ticks, y: payload.after },
    { name: "before", style: "mcw-s1 mcw-walk-before", ticks, y: payload.before },
  ];
  if (full.tick.length) {
    lossLines.unshift({
      name: "all training images", style: "mcw-s2 mcw-walk-full", dots: true, ticks: full.tick, y: full.loss,
    });
  }
  const key = el(
    "div", { class: "mcw-walk-key", "aria-hidden": "true" },
    ...lossLines.filter(({ y }) => y.some((value, i) => i && value !== null)).reverse().map((line) => el("span", {}, line.dots
      ? sv("svg", { width: 26, height: 10 }, ...[4, 13, 22].map((cx) =>
        sv("circle", { cx, cy: 5, r: 1.8, class: `mcw-dot ${line.style}` })))
      : swatch(line.style), line.name)));

  const highest = (values) => Math.max(...values.filter((value) => value !== null));
  const dots = (i) => payload.stage[i] && stages[payload.stage[i] - 1].upto;
  const ending = payload.converged
    ? `The walk converged: ${shareText(payload.left[last])} of the distance are left at the last tick`
    : `The walk did not converge: ${payload.shortfalls}`;
  const closing = payload.closing === null
    ? "."
    : `; on the straight piece from there to ${B} the training loss is at most ${lossText(payload.closing)}.`;
  const caption = el(
    "p", { class: "mcw-caption" },
    `Distance left: ${payload.distance} as a part of what it was at ${A}`,
    payload.rows.some((row) => row.thin) ? " (thin lines: biases and norms)" : "",
    `. Loss: of the first minibatch after the move, and the mean of the last ones. ${ending}${closing}`,
    last < total ? ` Of ${total} ticks ${last + 1} are in this page.` : "",
    payload.left_out ? ` Left out: ${payload.left_out} tensors that begin where they go.` : "",
  );
  const root = el(
    "div", { class: "mcw", role: "group", "aria-label": payload.title },
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-walk-shelf" }, output, el("div", { class: "mcw-walk-panes" },
      el("div", { class: "mcw-walk-left" }, table),
      el("div", { class: "mcw-walk-right" }, figure, knob.node))),
    caption);

  // ---------------------------------------------------------------- what is shown

  function describe() {
    const at = rows.map((row) => row.share[last]);
    const [least, most] = [Math.min(...at), Math.max(...at)];
    const begins = stages.slice(1).map((stage) => stage.first);
    const share = `Line chart, with a logarithmic scale, of the distance left over the ticks 0 to ${total}. `
      + `At the last tick between ${shareText(least)}, ${rows[at.indexOf(least)].name}, and ${shareText(most)}, `
      + `${rows[at.indexOf(most)].name}. `
      + (begins.length ? `Stages begin at the ticks 1, ${begins.join(", ")}.` : "All layers move from the first tick on.");
    const whole = full.tick.length ? `, on all training images at most ${lossText(highest(full.loss))}` : "";
    const loss = measured
      ? `before retraining at most ${lossText(highest(payload.before))}, after at most ${lossText(highest(payload.after))}`
      : "nothing was retrained";
    return [share, `Line chart, with a logarithmic scale, of the loss over the ticks: ${loss}${whole}; the `
      + `threshold is ${lossText(threshold)}.`];
  }

  function ready() {
    const [shareLabel, lossLabel] = describe();
    const shared = { total, begins: stages.slice(1).map((stage) => stage.first - 1), onPick: knob.setT };
    charts = [
      tickChart({
        ...shared, label: shareLabel, heading: "distance left", height: 208, floor: 1e-5,
        say: (value) => `${Number((100 * value).toPrecision(1))}\u00a0%`,
        lines: rows.map((row) => ({ style: styleOf(row), extra: dashOf(row), ticks, y: row.share })),
      }),
      tickChart({
        ...shared, label: lossLabel, heading: "loss", height: 196, last: true, floor: 1e-7,
        level: { value: threshold, words: `threshold ${lossText(threshold)}` },
        say: (value) => (value < 1e-4 ? value.toExponential(0).replace("-", "\u2212") : String(value)),
        lines: lossLines,
      }),
    ];
    figure.replaceChildren(charts[0].node, charts[1].node, key);
    release = fitCharts(figure, charts);
  }

  function move(t) {
    const i = Math.round(t * last);
    const stage = payload.stage[i];
    const upto = dots(i);
    const [before, after] = [payload.before[i], payload.after[i]];
    const words = stage ? stages[stage - 1].words : "nothing has moved";
    const loss = after === null ? "not retrained"
      : before === null ? lossText(after) : `${lossText(before)} \u2192 ${lossText(after)}`;
    stats(output, [
      ["tick", `${ticks[i]} of ${total}`],
      ["stage", stage ? `${stage} of ${stages.length}` : "\u2013"],
      ["distance left", shareText(payload.left[i])],
      [payload.most[i] ? "rounds: the most" : "rounds", stage ? String(payload.rounds[i]) : "\u2013"],
      ["loss before \u2192 after", loss, "mcw-walk-loss"],
    ]);
    output.append(el("span", { class: "mcw-sr" }, ": "), el("span", { class: "mcw-walk-words" }, words));
    Object.assign(root.dataset, {
      tick: ticks[i], stage, rounds: payload.rounds[i], left: payload.left[i],
      before: before === null ? "NaN" : before, after: after === null ? "NaN" : after,
    });
    for (const { row, node, mark, bar, value } of bars) {
      const moves = row.stage < upto;
      node.className = moves ? "mcw-walk-moves" : "";
      mark.replaceChildren(...(moves ? ["\u25b8", el("span", { class: "mcw-sr" }, "moves")] : []));
      bar.style.width = `${((100 * row.share[i]) / widest).toFixed(2)}%`;
      value.textContent = shareText(row.share[i]);
    }
    knob.show(t, `tick ${ticks[i]} of ${total}, `
      + (stage ? `stage ${stage} of ${stages.length}: ${words}; ${payload.rounds[i]} rounds; ` : `the start, ${A}; `)
      + `loss ${loss}; ${shareText(payload.left[i])} of the distance left`);
    if (!charts.length) return;
    charts[0].move(ticks[i], rows.filter((row) => row.stage < upto)
      .map((row) => ({ value: row.share[i], style: styleOf(row) })));
    charts[1].move(ticks[i], [
      { value: before, style: "mcw-s1" }, { value: after, style: "mcw-s0" }]);
  }

  return {
    node: root,
    move,
    ready,
    stop() {
      knob.stop();
      release();
    },
  };
}

const render = follow(buildWalkSlider);
export default { render };
