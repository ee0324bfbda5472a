// A multi-layer perceptron in the page: decoding, running and mixing it, and drawing an image.
// Python puts this file after slider.js, in front of the sliders that run networks.

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

// images in double precision: as they are drawn, and as a network standardises them
function decodeImages({ images, shape: [channels, height, wide], moments }) {
  const raw = images.type === "uint8" ? bytesOf(images.bits) : floatsOf(images.bits);
  const pixels = Float64Array.from(raw, (value) => value / images.scale);
  if (!moments) return { pixels, x: pixels };
  const [mean, std] = moments;
  const x = pixels.map((value, i) => {
    const channel = Math.floor(i / (height * wide)) % channels;
    return (value - mean[channel]) / std[channel];
  });
  return { pixels, x };
}

// y = x W' + b for n rows at once, four outputs at a time; weights hold W, then b, from `at` on
function dense(x, n, { inputs, outputs, relu }, weights, at, y) {
  const bias = at + inputs * outputs;
  for (let i = 0; i < n; i += 1) {
    const from = i * inputs;
    const to = i * outputs;
    let o = 0;
    for (; o + 4 <= outputs; o += 4) {
      const r0 = at + o * inputs;
      const r1 = r0 + inputs;
      const r2 = r1 + inputs;
      const r3 = r2 + inputs;
      let s0 = weights[bias + o];
      let s1 = weights[bias + o + 1];
      let s2 = weights[bias + o + 2];
      let s3 = weights[bias + o + 3];
      for (let k = 0; k < inputs; k += 1) {
        const value = x[from + k];
        s0 += value * weights[r0 + k];
        s1 += value * weights[r1 + k];
        s2 += value * weights[r2 + k];
        s3 += value * weights[r3 + k];
      }
      y[to + o] = s0;
      y[to + o + 1] = s1;
      y[to + o + 2] = s2;
      y[to + o + 3] = s3;
    }
    for (; o < outputs; o += 1) {
      const row = at + o * inputs;
      let sum = weights[bias + o];
      for (let k = 0; k < inputs; k += 1) sum += x[from + k] * weights[row + k];
      y[to + o] = sum;
    }
    if (relu) for (let j = to; j < to + outputs; j += 1) if (!(y[j] > 0)) y[j] = 0;
  }
}

// A network that can be run anywhere on one path.
function network(path, layers, pixels, n, shape, labels) {
  const stations = path.weights.map(floatsOf);
  const mixed = new Float32Array(stations[0].length);
  const [channels, height, wide] = shape;
  const area = height * wide;
  const x = new Float32Array(pixels.length);
  const [mean, std] = path.moments || [Array(channels).fill(0), Array(channels).fill(1)];
  for (let i = 0; i < x.length; i += 1) {
    const channel = Math.floor(i / area) % channels;
    x[i] = (pixels[i] - mean[channel]) / std[channel];
  }
  const values = layers.map((layer) => new Float32Array(n * layer.outputs));
  const classes = layers[layers.length - 1].outputs;
  const predicted = new Int32Array(n);

  function run(t) {
    let j = 0;
    while (j < path.knots.length - 2 && t > path.knots[j + 1]) j += 1;
    const s = (t - path.knots[j]) / (path.knots[j + 1] - path.knots[j]);
    const [a, b] = [stations[j], stations[j + 1]];
    for (let i = 0; i < mixed.length; i += 1) mixed[i] = (1 - s) * a[i] + s * b[i];
    let at = 0;
    layers.forEach((layer, i) => {
      dense(i ? values[i - 1] : x, n, layer, mixed, at, values[i]);
      at += (layer.inputs + 1) * layer.outputs;
    });
    const logits = values[values.length - 1];
    let loss = 0;
    let right = 0;
    for (let i = 0; i < n; i += 1) {
      const from = i * classes;
      let best = 0;
      for (let c = 1; c < classes; c += 1) if (logits[from + c] > logits[from + best]) best = c;
      let sum = 0;
      for (let c = 0; c < classes; c += 1) sum += Math.exp(logits[from + c] - logits[from + best]);
      loss += Math.log(sum) + logits[from + best] - logits[from + labels[i]];
      predicted[i] = best;
      if (best === labels[i]) right += 1;
    }
    return { loss: loss / n, accuracy: right / n, right, predicted };
  }

  // the probabilities of image i where run was last
  function probabilities(i) {
    const logits = values[values.length - 1].subarray(i * classes, (i + 1) * classes);
    const most = Math.max(...logits);
    const powers = Array.from(logits, (z) => Math.exp(z - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / sum);
  }
  return { run, probabilities };
}

// ink on paper for one channel (the style sheet turns it round in the dark), colours for three
function paint(canvas, pixels, from, [channels, height, wide]) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(wide, height);
  const area = height * wide;
  for (let p = 0; p < area; p += 1) {
    const level = (c) => Math.round(255 * pixels[from + c * area + p]);
    if (channels === 3) image.data.set([level(0), level(1), level(2), 255], 4 * p);
    else image.data.set([0, 0, 0, level(0)], 4 * p);
  }
  context.putImageData(image, 0, 0);
}
