// Networks run along paths with any number of control points, and how far their predictions move;
// no drawing.  A distribution p is kept as its roots, sqrt(p), a point of the unit sphere.
// Uses what network.js has for weights and images.

// With which shares a path mixes its control points at t: a Bezier curve of any degree (of degree
// one the straight line), or a chain of straight pieces.
function sharesAt({ kind, knots, networks }, t) {
  const last = networks.length - 1;
  if (kind === "polychain") {
    let k = 0;
    while (k < last - 1 && t >= knots[k + 1]) k += 1;
    const s = (t - knots[k]) / (knots[k + 1] - knots[k]);
    return networks.map((_, i) => (i === k ? 1 - s : i === k + 1 ? s : 0));
  }
  let choose = 1;
  return networks.map((_, k) => {
    const share = choose * t ** k * (1 - t) ** (last - k);
    choose = (choose * (last - k)) / (k + 1);
    return share;
  });
}

// (path, t) -> roots of the predictions for all n images (row by row), loss and accuracy, in
// double precision
function pathRunner({ layers, shape, images, labels, moments, networks }) {
  const truth = bytesOf(labels);
  const n = truth.length;
  const { x } = decodeImages({ images, shape, moments });
  const thetas = networks.map((text) => Float64Array.from(floatsOf(text)));
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
  const mix = (out, path, shares, all, at) => {
    out.fill(0);
    path.networks.forEach((which, k) => {
      const [share, one] = [shares[k], all[which]];
      if (share) for (let i = 0; i < out.length; i += 1) out[i] += share * one[at + i];
    });
  };
  return (path, t) => {
    const shares = sharesAt(path, t);
    mix(values[0], path, shares, firsts, 0);
    if (first.relu) values[0].forEach((v, i, all) => { if (!(v > 0)) all[i] = 0; });
    mix(mixed, path, shares, thetas, from);
    let at = 0;
    for (let l = 1; l < layers.length; l += 1) {
      dense(values[l - 1], n, layers[l], mixed, at, values[l]);
      at += (layers[l].inputs + 1) * layers[l].outputs;
    }
    const logits = values[values.length - 1];
    const roots = new Float64Array(n * classes);
    let [loss, right] = [0, 0];
    for (let i = 0; i < n; i += 1) {
      const row = i * classes;
      let best = 0;
      for (let k = 1; k < classes; k += 1) if (logits[row + k] > logits[row + best]) best = k;
      let sum = 0;
      for (let k = 0; k < classes; k += 1) sum += Math.exp(logits[row + k] - logits[row + best]);
      const level = Math.log(sum) + logits[row + best];
      for (let k = 0; k < classes; k += 1) roots[row + k] = Math.exp((logits[row + k] - level) / 2);
      loss += level - logits[row + truth[i]];
      if (best === truth[i]) right += 1;
    }
    return { roots, loss: loss / n, accuracy: right / n };
  };
}

// the Fisher-Rao distance 4 arcsin(|sqrt p - sqrt q| / 2) of image i's predictions
function fisherDistance(p, q, i, classes) {
  let sum = 0;
  for (let k = i * classes; k < (i + 1) * classes; k += 1) sum += (p[k] - q[k]) ** 2;
  return 4 * Math.asin(Math.min(1, Math.sqrt(sum) / 2));
}
// its root mean square over all images
function meanDistance(p, q, classes) {
  const n = p.length / classes;
  let sum = 0;
  for (let i = 0; i < n; i += 1) sum += fisherDistance(p, q, i, classes) ** 2;
  return Math.sqrt(sum / n);
}

// Follows one path through its points: `next()` takes one more and says whether it was the last.
// images: those whose own way is kept, as roots at every point, and whose own length is summed.
function survey(run, path, points, classes, images) {
  // as Python takes them: its knots, and what is none of them but for rounding
  const ts = [...path.knots, ...Array.from({ length: points }, (_, i) => i / (points - 1))
    .filter((t) => path.knots.every((knot) => Math.abs(t - knot) > 1e-6))];
  ts.sort((a, b) => a - b);
  const found = {
    t: ts, length: [0], speed: [], middle: [], loss: [],
    ways: images.map(() => []), own: images.map(() => 0), start: null, last: null,
  };
  found.next = () => {
    const k = found.loss.length;
    const { roots, loss } = run(path, ts[k]);
    found.loss.push(loss);
    images.forEach((image, j) => {
      found.ways[j].push(roots.slice(image * classes, (image + 1) * classes));
      if (k) found.own[j] += fisherDistance(found.last, roots, image, classes);
    });
    if (k) {
      const step = meanDistance(found.last, roots, classes);
      found.length.push(found.length[k - 1] + step);
      found.speed.push(step / (ts[k] - ts[k - 1]));
      found.middle.push((ts[k] + ts[k - 1]) / 2);
    } else {
      found.start = roots;
    }
    found.last = roots;
    return k === ts.length - 1;
  };
  return found;
}

// `count` points of the great circle between two distributions, as roots, at constant speed
function greatCircle(a, b, count) {
  const angle = fisherDistance(a, b, 0, a.length) / 2;
  return Array.from({ length: count }, (_, i) => {
    const s = i / (count - 1);
    // so near each other the arc is its chord
    const [u, v] = angle < 1e-6 ? [1 - s, s]
      : [Math.sin((1 - s) * angle) / Math.sin(angle), Math.sin(s * angle) / Math.sin(angle)];
    return a.map((value, k) => u * value + v * b[k]);
  });
}

// the probabilities of the true class, of its rival, and of all others together
function grouped(roots, truth, rival) {
  let others = 0;
  roots.forEach((value, k) => { if (k !== truth && k !== rival) others += value * value; });
  return [roots[truth] ** 2, roots[rival] ** 2, others];
}
