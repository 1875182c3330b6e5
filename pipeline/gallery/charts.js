// Curves over the stops, and precision over keep rate, as SVG. A click selects the nearest stop.

const EDGE = { left: 46, right: 14, top: 24, bottom: 40 };

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, content] of Object.entries(attributes)) element.setAttribute(name, content);
  element.append(...children);
  return element;
}

// The area of a chart; `x` and `y` convert values in the ranges `xs` and `ys` to pixels.
function frame(holder, xs, ys, title) {
  const width = Math.max(280, Math.min(580, holder.clientWidth)), height = 270;
  const scale = (low, high, from, to) => (v) => Math.round(10 * (from + ((v - low) / (high - low || 1)) * (to - from))) / 10;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  return { chart, width, height, x: scale(...xs, EDGE.left, width - EDGE.right), y: scale(...ys, height - EDGE.bottom, EDGE.top) };
}

function axes({ chart, width, height, x, y }, xTicks, yTicks, xName) {
  for (const [v, text] of yTicks) {
    chart.append(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(v), y2: y(v) }));
    chart.append(svg("text", { x: EDGE.left - 6, y: y(v) + 4, "text-anchor": "end" }, text));
  }
  for (const [v, text] of xTicks) chart.append(svg("text", { x: x(v), y: height - EDGE.bottom + 17, "text-anchor": "middle" }, text));
  const bottom = height - EDGE.bottom;
  chart.append(svg("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: bottom, y2: bottom }));
  chart.append(svg("text", { x: (EDGE.left + width - EDGE.right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
}

const percentTicks = (low) => (low < 0.6 ? [0, 0.25, 0.5, 0.75, 1] : low < 0.8 ? [0.6, 0.7, 0.8, 0.9, 1] : [0.8, 0.85, 0.9, 0.95, 1])
  .filter((v) => v >= low - 1e-9).map((v) => [v, `${Math.round(100 * v)} %`]);

const points = ({ x, y }, pairs) => pairs.filter(([, v]) => v !== null).map(([u, v]) => `${x(u)},${y(v)}`).join(" ");

function line(area, kind, values) {
  area.chart.append(svg("polyline", { class: kind, points: points(area, values.map((v, stop) => [stop, v])) }));
}

function band(area, kind, estimates) {
  const known = estimates.map((e, stop) => [stop, e]).filter(([, e]) => e);
  const corners = [...known.map(([stop, e]) => [stop, e[2]]), ...known.reverse().map(([stop, e]) => [stop, e[1]])];
  area.chart.append(svg("polygon", { class: `band ${kind}`, points: points(area, corners) }));
}

// The stops with a guaranteed precision, as a background.
function guaranteedArea(area) {
  const half = (area.x(1) - area.x(0)) / 2;
  page.alphas.forEach((_, stop) => {
    if (!isGuaranteed(stop)) return;
    const [left, right] = [Math.max(area.x(stop) - half, area.x(0)), Math.min(area.x(stop) + half, area.x(numStops - 1))];
    area.chart.append(svg("rect", { class: "guaranteed", x: left, width: right - left, y: EDGE.top, height: area.height - EDGE.bottom - EDGE.top }));
  });
}

// The annotator's argmax, which is the same at every stop.
function rawLine(area, kind, estimate) {
  if (estimate) line(area, `${kind} raw`, page.alphas.map(() => estimate[0]));
}

const keepRates = (rule) => page.alphas.map((_, stop) => ratio(runCounts(stop, rule).kept, gridPixels * page.ids.length));

function drawCurves() {
  const { coverage, byRule, targets, isRisk, raw } = page.heldOut;
  const { precision, miou, wrong } = byRule[state.rule];
  const guaranteed = isRisk ? wrong : coverage;
  const title = `${isRisk ? "Wrong pixels" : "Coverage"}, precision, mIoU and keep rate at every stop, and those of the annotator's argmax; the numbers at the current stop are below`;
  const area = frame(part("curves"), [0, numStops - 1], [0, 1], title);
  const xTicks = ticks(area.width - EDGE.left - EDGE.right).map(({ stop }) => [stop, String(page.alphas[stop])]);
  axes(area, xTicks, percentTicks(0), "α, in the scale of the slider");
  guaranteedArea(area);
  band(area, "coverage", guaranteed);
  band(area, "precision", precision);
  line(area, "goal", targets);
  rawLine(area, "precision", raw[0]);
  rawLine(area, "miou", raw[1]);
  line(area, "keep", keepRates(state.rule));
  line(area, "miou", miou.map(value));
  line(area, "precision", precision.map(value));
  line(area, "coverage", guaranteed.map(value));
  const here = area.x(state.stop);
  area.chart.append(svg("line", { class: "here", x1: here, x2: here, y1: EDGE.top, y2: area.height - EDGE.bottom }));
  const now = { coverage: value(guaranteed[state.stop]), precision: value(precision[state.stop]), miou: value(miou[state.stop]), keep: keepRates(state.rule)[state.stop] };
  for (const [kind, v] of Object.entries(now))
    if (v !== null) area.chart.append(svg("circle", { class: kind, cx: here, cy: area.y(v), r: 4.5, style: "stroke-dasharray:none" }));
  area.chart.addEventListener("click", (event) => {
    const box = area.chart.getBoundingClientRect();
    const across = (((event.clientX - box.left) / box.width) * area.width - EDGE.left) / (area.width - EDGE.left - EDGE.right);
    setStop(Math.round(across * (numStops - 1)));
  });
  part("curves").replaceChildren(area.chart);
  const text = (estimate) => (estimate ? `${percent(estimate[0])} (${range(estimate)})` : "–");
  part("curves-caption").replaceChildren(series([
    ["coverage", `held-out ${isRisk ? "wrong pixels" : "coverage"} ${text(guaranteed[state.stop])}`],
    ["goal", `${isRisk ? "bound" : "target"} ${percent(targets[state.stop])}`],
    ["precision", `held-out precision ${text(precision[state.stop])}`],
    ["precision raw", `precision of the argmax ${text(raw[0])}`],
    ["miou", `held-out mIoU of labels ${text(miou[state.stop])}`],
    ["miou raw", `mIoU of the argmax ${text(raw[1])}`],
    ["keep", `keep rate of all unlabeled images ${percent(now.keep)}`],
  ]));
}

function series(entries) {
  return make("ul", { class: "series" }, ...entries.map(([kind, text]) => make("li", {},
    svg("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" }, svg("polyline", { class: kind, points: "0,5 30,5" })), text)));
}

function drawPareto() {
  const holder = part("pareto");
  const precisions = page.heldOut.byRule.map(({ precision }) => precision);
  const known = precisions.flat().filter(Boolean);
  if (!known.length) {
    holder.replaceChildren(make("p", { class: "blank" }, "There is no held-out precision, because no labeled image can be held out."));
    return;
  }
  const lowest = Math.min(...known.map(([v]) => v));
  const low = lowest > 0.8 ? 0.8 : lowest > 0.6 ? 0.6 : 0;
  const area = frame(holder, [0, 1], [low, 1], "Held-out precision over keep rate, one line per rule");
  axes(area, percentTicks(0), percentTicks(low), "keep rate of all unlabeled images");
  area.chart.append(svg("text", { x: 2, y: 10 }, "held-out precision"));
  const at = page.rules.map((_, rule) => keepRates(rule).map((kept, stop) => [kept, value(precisions[rule][stop])]));
  at.forEach((pairs, rule) => area.chart.append(svg("polyline", { class: `rule${rule}`, points: points(area, pairs) })));
  markOwn(area, at);
  markRaw(area);
  const [kept] = at[state.rule][state.stop];
  const now = precisions[state.rule][state.stop];
  if (now) {
    const [low, high] = [now[1], now[2]].map((v) => Math.max(area.y(1), Math.min(area.y(v), area.height - EDGE.bottom)));
    area.chart.append(svg("line", { class: "spread", x1: area.x(kept), x2: area.x(kept), y1: low, y2: high }));
    area.chart.append(svg("circle", { class: "now", cx: area.x(kept), cy: area.y(now[0]), r: 6 }));
  }
  area.chart.addEventListener("click", (event) => goToNearest(area, at, event));
  holder.replaceChildren(area.chart);
  part("pareto-caption").replaceChildren("Higher and further right is better. ● current stop, ○ labels of the run, ◇ the annotator's argmax.",
    series(page.rules.map((name, rule) => [`rule${rule}`, `rule ${name}`]).filter((_, rule) => page.rules[rule] !== "raw")));
}

function markOwn(area, at) {
  const [kept, precision] = at[page.rules.indexOf(page.ownRule)][page.ownStop];
  if (precision !== null) area.chart.append(svg("circle", { class: "run", cx: area.x(kept), cy: area.y(precision), r: 9 }));
}

// The annotator's argmax labels every pixel.
function markRaw(area) {
  const [precision] = page.heldOut.raw;
  if (!precision) return;
  const [x, y] = [area.x(1), area.y(precision[0])];
  area.chart.append(svg("polygon", { class: "argmax", points: `${x - 6},${y} ${x},${y - 6} ${x + 6},${y} ${x},${y + 6}` }));
}

function goToNearest(area, at, event) {
  const box = area.chart.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) * (area.width / box.width), (event.clientY - box.top) * (area.height / box.height)];
  let nearest = { far: Infinity };
  at.forEach((pairs, rule) => pairs.forEach(([kept, precision], stop) => {
    const far = precision === null ? Infinity : Math.hypot(area.x(kept) - x, area.y(precision) - y);
    if (far < nearest.far) nearest = { far, rule, stop };
  }));
  state.rule = nearest.rule;
  setStop(nearest.stop);
}
