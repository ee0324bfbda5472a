// The straight line from the network to its shuffled self: its curve, a slider, the numbers there.

const POINTS = 41;
const TALL = 214; // room for the barrier's words above the peak; the style sheet has it too

// chart.js places the chord's name and the barrier's without comparing the two
function partWords(node) {
  const strong = node.querySelector("text.mcw-strong");
  const chord = node.querySelector("text.mcw-note:not(.mcw-strong)");
  const near = () => {
    const [a, b] = [strong.getBBox(), chord.getBBox()];
    return a.x < b.x + b.width + 8 && b.x < a.x + a.width + 8
      && a.y < b.y + b.height + 3 && b.y < a.y + a.height + 3;
  };
  if (!strong || !chord || !near()) return;
  const below = Number(chord.getAttribute("y")) + 21; // as far under the line as it was above
  chord.setAttribute("y", below.toFixed(1));
  if (below > TALL - 26 || near()) chord.remove();
}

// at(t): the loss, the accuracy and how many of the n images are right there
function lineBelow({ payload, model, n, at }) {
  const { split } = payload;
  const output = el("output", { class: "mcw-stats", "aria-live": "polite" });
  const figure = el("div", { class: "mcw-charts" });
  const knob = control({
    model, step: payload.step, output,
    label: "t, the place on the straight line from the network to its shuffled self",
    ends: ["the network", "its shuffled self"],
  });
  const node = el(
    "div", { class: "mcw-second" },
    el("div", { class: "mcw-title" },
      "Straight line from the network (t = 0) to its shuffled self (t = 1)"),
    el("div", { class: "mcw-top" }, output),
    figure, knob.node,
    el("p", { class: "mcw-caption" },
      "At t the weights are (1 \u2212 t) \u03b8 + t \u03c0(\u03b8), where \u03b8 is the network and "
      + "\u03c0(\u03b8) the same with its units in the order above. Loss: mean cross-entropy over ",
      el("strong", {}, String(n)), ` ${split} images of ${payload.data}. Dashed: the chord, `
      + "(1 \u2212 t) L(0) + t L(1). Barrier: the most by which the loss exceeds it, on a grid of "
      + `${POINTS} points.`),
  );
  let timer = 0;
  let charts = [];
  let release = () => {};

  function move(t) {
    const { loss, accuracy, right } = at(t);
    stats(output, [
      ["t", tText(t)],
      [`${split} loss`, lossText(loss)],
      ["accuracy", percentText(accuracy)],
      ["right", `${right} of ${n}`],
    ]);
    knob.show(t, `t ${tText(t)}: loss ${lossText(loss)}, accuracy ${percentText(accuracy)}, `
      + `${right} of ${n} images right`);
    for (const one of charts) one.move(t);
    return { t, loss, accuracy, images: n };
  }

  // a few points at a time, so that the page stays free
  function renew() {
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
    const one = chart({
      label: `Line chart of the ${split} loss along the straight line from the network to its `
        + `shuffled self: ${lossText(loss[0])} at both ends, `
        + (there ? `barrier ${lossText(value)} at t = ${tText(place)}.` : "no barrier."),
      heading: `${split} loss`,
      lines: [{ style: 0, t, y: loss }],
      barrier: there ? { t: place, value } : null,
      barrierText: `barrier ${lossText(value)}`,
      percent: false, last: true, height: TALL, onPick: knob.setT,
    });
    const draw = (width) => {
      one.draw(width);
      partWords(one.node);
    };
    charts = [{ ...one, draw }];
    release();
    figure.replaceChildren(one.node);
    figure.classList.remove("mcw-stale");
    release = fitCharts(figure, charts);
    one.move(model.get("t"));
  }
  return {
    node, move, renew,
    stop() {
      clearTimeout(timer);
      knob.stop();
      release();
    },
  };
}
