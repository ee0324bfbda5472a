// The loss at a point of the plane through A, B and the bend, and along a curve in it; no drawing.
// A point (x, y) is A + x e1 + y e2: e1 along B - A, e2 at right angles to it, towards the bend
// as it was fitted.  Uses what network.js has for weights and images.

// The three networks, mixed and run on all images at (x, y), in double precision.
// networks: the weights of all, of which entry.networks names those of A, B and the bend.
function networkSource(entry, { layers, shape, images, labels }, networks) {
  const truth = bytesOf(labels);
  const n = truth.length;
  const { x } = decodeImages({ images, shape, moments: entry.moments });
  const thetas = entry.networks.map((i) => networks[i]);
  const room = ({ outputs }) => new Float64Array(n * outputs);
  // the first layer is linear in its weights: each network's is run once, and mixed ever after
  const [first] = layers;
  const from = (first.inputs + 1) * first.outputs;
  const firsts = thetas.map((theta) => {
    const out = room(first);
    dense(x, n, { ...first, relu: false }, theta, 0, out);
    return out;
  });
  const values = layers.map(room);
  const mixed = new Float64Array(thetas[0].length - from);
  const classes = layers[layers.length - 1].outputs;
  const mix = (out, [a, b, c], [p, q, r], at, relu) => {
    for (let i = 0; i < out.length; i += 1) {
      const value = a * p[at + i] + b * q[at + i] + c * r[at + i];
      out[i] = relu && !(value > 0) ? 0 : value;
    }
  };
  return (px, py) => {
    const c = py / entry.bend[1];
    const b = (px - c * entry.bend[0]) / entry.length;
    const shares = [1 - b - c, b, c];
    mix(values[0], shares, firsts, 0, first.relu);
    mix(mixed, shares, thetas, from, false);
    let at = 0;
    for (let l = 1; l < layers.length; l += 1) {
      dense(values[l - 1], n, layers[l], mixed, at, values[l]);
      at += (layers[l].inputs + 1) * layers[l].outputs;
    }
    const logits = values[values.length - 1];
    let [loss, right] = [0, 0];
    for (let i = 0; i < n; i += 1) {
      const row = i * classes;
      let best = 0;
      for (let k = 1; k < classes; k += 1) if (logits[row + k] > logits[row + best]) best = k;
      let sum = 0;
      for (let k = 0; k < classes; k += 1) sum += Math.exp(logits[row + k] - logits[row + best]);
      loss += Math.log(sum) + logits[row + best] - logits[row + truth[i]];
      if (best === truth[i]) right += 1;
    }
    return { loss: loss / n, accuracy: right / n };
  };
}

// Between the points of the measured grid; accuracy and log loss are bilinear.
function gridSource({ x, y, loss, accuracy }) {
  const logs = loss.map((value) => Math.log(Math.max(value, 1e-12)));
  const cell = (all, value) => {
    let k = 0;
    while (k < all.length - 2 && value > all[k + 1]) k += 1;
    return [k, (value - all[k]) / (all[k + 1] - all[k])];
  };
  return (px, py) => {
    const [i, s] = cell(x, px);
    const [j, r] = cell(y, py);
    const read = (values) => {
      const row = (k) => (1 - s) * values[k * x.length + i] + s * values[k * x.length + i + 1];
      return (1 - r) * row(j) + r * row(j + 1);
    };
    return { loss: Math.exp(read(logs)), accuracy: read(accuracy) };
  };
}

// where the curve with this bend is at t
function curveAt({ kind, knot, length }, [x, y], t) {
  let [b, c] = [t * t, 2 * t * (1 - t)];
  if (kind === "polychain") {
    [b, c] = t <= knot ? [0, t / knot] : [(t - knot) / (1 - knot), (1 - t) / (1 - knot)];
  }
  return [b * length + c * x, c * y];
}

// the bend on the line from A to B with which the curve is the straight line itself
const straightBend = ({ knot, length }) => [knot * length, 0];

// Loss and accuracy along a curve at evenly spaced t; barrier: the highest excess over the chord;
// mean: of the loss over t, by the trapezoidal rule.
function summed(ts, points) {
  const loss = points.map((one) => one.loss);
  const excess = loss.map((value, i) => value - chordAt(loss, ts[i]));
  const barrier = Math.max(0, ...excess);
  let mean = 0;
  for (let i = 1; i < ts.length; i += 1) mean += ((ts[i] - ts[i - 1]) * (loss[i] + loss[i - 1])) / 2;
  const place = barrier > 0 ? ts[excess.indexOf(barrier)] : 0;
  return { t: ts, loss, accuracy: points.map((one) => one.accuracy), barrier, place, mean };
}
function along(source, entry, bend, count) {
  const ts = Array.from({ length: count }, (_, i) => i / (count - 1));
  // a corner belongs to the curve, wherever it is
  if (entry.kind === "polychain" && !ts.includes(entry.knot)) {
    ts.push(entry.knot);
    ts.sort((a, b) => a - b);
  }
  return summed(ts, ts.map((t) => source(...curveAt(entry, bend, t))));
}

// One step of gradient descent on f(x, y): the gradient by central differences of width h, the
// length `longest`, halved until f falls by a fair share of what the slope promises, or null
// where no step does.  hold keeps a point in the plane that is drawn.
function downhill(f, [x, y], h, longest, hold) {
  const here = f([x, y]);
  const slope = [
    (f([x + h, y]) - f([x - h, y])) / (2 * h),
    (f([x, y + h]) - f([x, y - h])) / (2 * h),
  ];
  const size = Math.hypot(...slope);
  if (!(size > 0)) return null;
  for (let reach = longest; reach > longest / 500; reach /= 2) {
    const to = hold([x - (reach * slope[0]) / size, y - (reach * slope[1]) / size]);
    const promised = slope[0] * (x - to[0]) + slope[1] * (y - to[1]);
    const after = f(to);
    if (promised > 0 && here - after > 0.2 * promised) return { to, before: here, after };
  }
  return null;
}
