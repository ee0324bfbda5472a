// The triangle in which one image's distribution moves, and the chart of the speeds; with drawing.js.

// corners: what the three are called, the one at the top first.
// ways: [{style, points}], each point three probabilities; circle: those of the great circle.
// The square roots of the three are a point of the sphere; seen from (1, 1, 1) its octant lies over
// the same triangle, so that one linear map draws both.
function triangle({ corners, ways, circle, label }) {
  const node = sv("svg", { class: "mcw-geo-triangle", role: "img", "aria-label": label });
  const moving = sv("g", {});
  let [sphere, width, now] = [false, 0, []];
  let place = () => [0, 0];
  const d = (points) => `M${points.map((p) => place(p).map((v) => v.toFixed(1)).join(" ")).join("L")}`;
  const arc = (from, to) => Array.from({ length: 25 }, (_, i) => {
    const s = Math.sin((i * Math.PI) / 48) ** 2;
    return [0, 1, 2].map((k) => (k === from ? 1 - s : k === to ? s : 0));
  });

  function draw(newWidth, onSphere) {
    [width, sphere] = [newWidth, onSphere];
    // the octant bulges below its corners, and is drawn smaller into the same frame
    const frame = ((width - 26) * Math.sqrt(3)) / 2;
    const tall = sphere ? frame / (1 / 3 + Math.SQRT2 / 3 + 1 / 3) : frame;
    const side = (2 * tall) / Math.sqrt(3);
    const height = Math.round(22 + frame + 22);
    const middle = [width / 2, 22 + (2 * tall) / 3];
    const to = [[0, (-2 * tall) / 3], [-side / 2, tall / 3], [side / 2, tall / 3]];
    place = (p) => {
      const q = sphere ? p.map((v) => Math.sqrt(Math.max(0, v))) : p;
      return [0, 1].map((c) => middle[c] + q[0] * to[0][c] + q[1] * to[1][c] + q[2] * to[2][c]);
    };
    put(node, { viewBox: `0 0 ${width} ${height}`, width, height }, []);
    const [begin, end] = [circle[0], circle[circle.length - 1]];
    const foot = height - 5;
    node.replaceChildren(
      sv("path", { class: "mcw-geo-edge", d: `${d([...arc(0, 1), ...arc(1, 2), ...arc(2, 0)])}Z` }),
      svgLine(place([0.5, 0.5, 0]), place([0, 0, 1]), "mcw-geo-even"),
      ...[...ways].reverse().map(({ style, points }) =>
        sv("path", { class: `mcw-line mcw-geo-way mcw-s${style}`, d: d(points) })),
      sv("path", { class: "mcw-geo-circle", d: d(circle) }),
      svgText(width / 2, 11, corners[0], { "text-anchor": "middle" }),
      svgText(1, foot, corners[1], {}),
      svgText(width - 1, foot, corners[2], { "text-anchor": "end" }),
      ...[[begin, "mcw-geo-a"], [end, "mcw-geo-b"]].map(([p, name]) => {
        const [cx, cy] = place(p).map((v) => v.toFixed(1));
        return sv("circle", { cx, cy, r: 3.5, class: name });
      }),
      moving,
    );
    move(now);
  }
  // points: the probabilities on every path where it stands
  function move(points) {
    now = points;
    if (!width) return;
    moving.replaceChildren(...points.map((p, i) => {
      const [cx, cy] = place(p).map((v) => v.toFixed(1));
      return sv("circle", { cx, cy, r: 5.5, class: `mcw-dot mcw-s${ways[i].style}` });
    }).reverse());
  }
  return { node, draw, move };
}

// lines: [{style, speed, middle}], the speed of every segment and where its middle is; bound: the constant
// speed of the shortest way there is.
function speedChart({ label, heading, lines, bound, onPick }) {
  const node = sv("svg", { class: "mcw-chart", role: "img", "aria-label": label });
  const moving = sv("g", {});
  const [top, height] = [26, 176];
  const bottom = height - 22;
  const most = 1.08 * Math.max(bound, 1e-9, ...lines.flatMap((line) => line.speed));
  const { ticks, places } = niceTicks(0, most, 4);
  const y = (value) => bottom - (value / most) * (bottom - top);
  let [width, now] = [0, []];
  const x = (t) => LEFT + t * (width - LEFT - RIGHT);
  const at = (t, value) => `${x(t).toFixed(1)} ${y(value).toFixed(1)}`;
  // the line through the middles of the segments, held to both ends, as far as t
  const points = ({ middle, speed }, t) => {
    const inner = middle.map((m, i) => [m, speed[i]]).filter(([m]) => m < t);
    return [[0, speed[0]], ...inner, [t, valueAt(middle, speed, t)]];
  };

  function draw(newWidth) {
    width = newWidth;
    put(node, { viewBox: `0 0 ${width} ${height}`, width, height }, []);
    const parts = [svgText(0, 12, heading, { class: "mcw-heading" })];
    for (const value of ticks) {
      parts.push(svgLine([LEFT, y(value)], [width - RIGHT, y(value)], "mcw-grid"));
      parts.push(svgText(LEFT - 8, y(value) + 4, value.toFixed(places), { "text-anchor": "end" }));
    }
    for (const t of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(svgLine([x(t), bottom], [x(t), bottom + 4], "mcw-axis"));
      parts.push(svgText(x(t), bottom + 17, String(t), { "text-anchor": "middle" }));
    }
    parts.push(svgLine([LEFT, bottom], [width - RIGHT, bottom], "mcw-axis"));
    parts.push(...[...lines].reverse().map((line) => sv("polyline", {
      class: `mcw-line mcw-geo-speed mcw-s${line.style}`,
      points: points(line, 1).map(([t, value]) => at(t, value)).join(" "),
    })));
    parts.push(sv("path", { class: "mcw-geo-circle", d: `M${at(0, bound)}L${at(1, bound)}` }));
    node.replaceChildren(...parts, moving);
    move(now);
  }
  // ts: where every path stands; the area up to there is the length so far
  function move(ts) {
    now = ts;
    if (!width) return;
    const each = ts.map((t, i) => ({ ...lines[i], t }));
    moving.replaceChildren(
      ...each.map((line) => sv("path", {
        class: `mcw-geo-area mcw-s${line.style}`,
        d: `M${at(0, 0)}L${points(line, line.t).map(([t, value]) => at(t, value)).join("L")}L${at(line.t, 0)}Z`,
      })),
      ...each.map((line) => svgLine([x(line.t), top - 6], [x(line.t), bottom], "mcw-now")),
      ...each.map((line) => {
        const [cx, cy] = at(line.t, valueAt(line.middle, line.speed, line.t)).split(" ");
        return sv("circle", { cx, cy, r: 5, class: `mcw-dot mcw-s${line.style}` });
      }),
    );
  }
  const pick = (event) => {
    const box = node.getBoundingClientRect();
    onPick((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT));
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    node.setPointerCapture(event.pointerId);
    pick(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) pick(event);
  });
  return { node, draw, move };
}
