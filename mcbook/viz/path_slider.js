// One slider over what was measured along a path, or along several of them.
// payload: {title, data, split, step, profiles: [{name, kind, t, splits: {test: {loss, accuracy,
// barrier: {loss: {t, value}, accuracy: {t, value}}}, train: {...}}}]}

function buildPathSlider(payload, model) {
  const { profiles } = payload;
  const several = profiles.length > 1;
  const splitsOf = (profile) => Object.keys(profile.splits);
  let active = 0;
  let split = payload.split;
  let charts = [];
  let release = () => {};

  // one line a split for one path; one line a path for several, on one split
  function listLines() {
    const lines = several
      ? profiles.map((profile) => ({ name: profile.name, profile, split }))
      : splitsOf(profiles[0]).map((name) => ({ name, profile: profiles[0], split: name }));
    return lines.map((line, style) => ({
      ...line, style, t: line.profile.t, ...line.profile.splits[line.split],
    }));
  }
  let lines = listLines();
  active = several ? profiles.length - 1 : lines.findIndex((line) => line.split === split);

  const output = el("output", { class: "mcw-stats", "aria-live": "polite" });
  const figure = el("div", { class: "mcw-charts" });
  const caption = el("p", { class: "mcw-caption" });
  const root = el("div", { class: "mcw", role: "group", "aria-label": payload.title });
  const knob = control({
    model, step: payload.step, output,
    label: "t, the position on the path from network A to network B",
    ends: ["network A", "network B"],
  });
  const legend = choice({
    legend: several ? "path" : "measured on",
    options: lines.map((line) => line.name),
    chosen: active,
    swatches: true,
    onChange(i) {
      active = i;
      redraw();
    },
  });
  const common = splitsOf(profiles[0]).filter((name) =>
    profiles.every((profile) => name in profile.splits));
  const splitSwitch = several && common.length > 1
    ? choice({
        legend: "measured on",
        options: common,
        chosen: common.indexOf(split),
        onChange(i) {
          split = common[i];
          lines = listLines();
          redraw();
        },
      })
    : null;
  // what the other lines say at t, for those who compare
  const others = el("p", { class: "mcw-others" });
  put(root, {}, [
    el("div", { class: "mcw-title" }, payload.title),
    el("div", { class: "mcw-top" }, output, el("div", { class: "mcw-choices" },
      lines.length > 1 ? legend : null, splitSwitch)),
    others, figure, knob.node, caption,
  ]);

  const named = (line) => (several ? `${line.name}, ${line.split}` : line.split);
  const lossOf = (line) => `${line.split} loss${several ? `, ${line.name}` : ""}`;

  function describe(what, percent) {
    const text = percent ? percentText : lossText;
    const parts = lines.map((line) => {
      const ys = line[what];
      const { t, value } = line.barrier[what];
      const barrier = percent ? `${(100 * value).toFixed(1)} points` : lossText(value);
      return `${named(line)}: ${text(ys[0])} at A, ${text(ys[ys.length - 1])} at B, `
        + `barrier ${barrier} at t = ${tText(t)}`;
    });
    return `Line chart of the ${what} along the path from A, t = 0, to B, t = 1. `
      + `${parts.join("; ")}.`;
  }

  function redraw() {
    const main = lines[active];
    const ordered = [main, ...lines.filter((line) => line !== main)];
    const { loss, accuracy } = main.barrier;
    const panel = (what, percent, last, height, barrierText) =>
      chart({
        label: describe(what, percent),
        heading: what,
        lines: ordered.map((line) => ({ ...line, y: line[what] })),
        percent, last, height, barrierText,
        barrier: main.barrier[what].value > 0 ? main.barrier[what] : null,
        onPick: knob.setT,
      });
    charts = [
      panel("loss", false, false, 210, `barrier ${lossText(loss.value)}`),
      panel("accuracy", true, true, 172, `barrier ${(100 * accuracy.value).toFixed(1)} points`),
    ];
    figure.replaceChildren(...charts.map((one) => one.node));
    const measured = `${main.t.length} measured points`;
    caption.replaceChildren(
      `Barrier of the ${lossOf(main)}: `, el("strong", {}, lossText(loss.value)),
      loss.value > 0 ? ` at t = ${tText(loss.t)}` : "",
      ", the greatest height above the chord, max over t of L(t) \u2212 [(1 \u2212 t) L(0) + t L(1)]; ",
      "of the accuracy, chord minus value: ",
      el("strong", {}, `${(100 * accuracy.value).toFixed(1)} points`),
      `. ${payload.data ? `Data: ${payload.data}; ` : ""}${main.profile.kind} path; ${measured}, `,
      "straight lines between them.",
    );
    release();
    release = fitCharts(figure, charts);
    move(model.get("t"));
  }

  function read(line, t) {
    const loss = valueAt(line.t, line.loss, t);
    const accuracy = valueAt(line.t, line.accuracy, t);
    return { loss, accuracy, excess: loss - chordAt(line.loss, t) };
  }

  function move(t) {
    const main = lines[active];
    const { loss, accuracy, excess } = read(main, t);
    Object.assign(root.dataset, { t, loss, accuracy, excess });
    stats(output, [
      ["t", tText(t)],
      [`${several ? "" : `${main.split} `}loss`, lossText(loss)],
      ["accuracy", percentText(accuracy)],
      ["loss above the chord", signedText(excess), `mcw-lead mcw-s${main.style}`],
    ]);
    others.replaceChildren(
      ...lines.filter((line) => line !== main).map((line) => {
        const one = read(line, t);
        return el(
          "span", {},
          `${line.name}: loss ${lossText(one.loss)}, accuracy ${percentText(one.accuracy)}`,
        );
      }),
    );
    others.hidden = lines.length < 2;
    knob.show(
      t,
      `t ${tText(t)}: ${named(main)} loss ${lossText(loss)}, accuracy ${percentText(accuracy)}, `
        + `loss ${signedText(excess)} from the chord`,
    );
    for (const one of charts) one.move(t);
  }

  return {
    node: root,
    move,
    ready: redraw,
    stop() {
      knob.stop();
      release();
    },
  };
}

const render = follow(buildPathSlider);
export default { render };
