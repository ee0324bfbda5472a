// The orders of hidden units, and what a network computes in double precision; no drawing.
// Uses what network.js has for weights and images.

// ---------------------------------------------------------------- orders

const naturals = (n) => Array.from({ length: n }, (_, i) => i);
function inverse(order) {
  const slots = new Float64Array(order.length);
  order.forEach((unit, slot) => (slots[unit] = slot));
  return slots;
}
// mulberry32: the same presses shuffle alike in every browser
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
function shuffled(n, random) {
  const order = naturals(n);
  for (let i = n - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// the weights with rows, biases and the columns of the next layer in the order
function arranged(weights, layers, orders) {
  const out = new Float64Array(weights.length);
  let at = 0;
  layers.forEach(({ inputs, outputs }, l) => {
    const [rows, columns] = [orders[l], orders[l - 1]];
    const bias = at + inputs * outputs;
    for (let i = 0; i < outputs; i += 1) {
      const unit = rows ? rows[i] : i;
      for (let k = 0; k < inputs; k += 1) {
        out[at + i * inputs + k] = weights[at + unit * inputs + (columns ? columns[k] : k)];
      }
      out[bias + i] = weights[bias + unit];
    }
    at = bias + outputs;
  });
  return out;
}

// ---------------------------------------------------------------- running it

// in double precision, so that what is left of a difference is rounding
function runner(layers, x, labels) {
  const n = labels.length;
  const values = layers.map((layer) => new Float64Array(n * layer.outputs));
  const logits = values[values.length - 1];
  const classes = layers[layers.length - 1].outputs;
  return (weights) => {
    let at = 0;
    layers.forEach((layer, l) => {
      dense(l ? values[l - 1] : x, n, layer, weights, at, values[l]);
      at += (layer.inputs + 1) * layer.outputs;
    });
    let [loss, right] = [0, 0];
    for (let i = 0; i < n; i += 1) {
      const own = logits.subarray(i * classes, (i + 1) * classes);
      const best = own.indexOf(Math.max(...own));
      const sum = own.reduce((total, z) => total + Math.exp(z - own[best]), 0);
      loss += Math.log(sum) + own[best] - own[labels[i]];
      right += Number(best === labels[i]);
    }
    return { loss: loss / n, accuracy: right / n, right, logits };
  };
}
function chances(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (z) => Math.exp(z - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}
