// Maps of the thresholds and of the numbers of labeled images behind them, and the histogram of the keep rates.

const STEPS = 253, INFINITE = 254; // codes of a threshold, see thresholds.py
const BINS = 20;
const { thresholds } = page;
let qCodes, validCounts;

async function buildMaps() {
  qCodes = new Uint8Array(await unpack(thresholds.q));
  validCounts = new Int32Array(await unpack(thresholds.valid));
  if (thresholds.isFlat) {
    for (const name of ["q-map", "q-scale", "valid-map", "valid-scale"]) part(name).hidden = true;
    return;
  }
  const [low, high] = thresholds.validRange;
  part("valid-low").textContent = number(low);
  part("valid-high").textContent = number(high);
  const ramp = thresholds.scale.filter((_, i) => i % 15 === 0).join(",");
  for (const name of ["q-ramp", "valid-ramp"]) part(name).style.setProperty("--ramp", ramp);
  describeAt("q-map", (i) => describeThreshold(qCodes[state.stop * validCounts.length + i]), qCaption);
  describeAt("valid-map", (i) => `${number(validCounts[i])} labeled images`, validCaption);
  drawMap("valid-map", (i) => (high > low ? (validCounts[i] - low) / (high - low) : 1));
}

function drawMap(name, position) {
  const [height, width] = thresholds.size;
  const canvas = Object.assign(part(name), { width, height });
  const picture = new ImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const scale = thresholds.scale.map((colour) => 0xff000000 | parseInt(colour.slice(5, 7) + colour.slice(3, 5) + colour.slice(1, 3), 16));
  for (let i = 0; i < words.length; i++) {
    const at = position(i);
    const isStripe = (i % width + Math.floor(i / width)) % 5 < 2;
    words[i] = at === null ? (isStripe ? 0xffebebeb : 0xff555555) : scale[Math.round(at * (scale.length - 1))];
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function drawMaps() {
  if (!thresholds.isFlat) {
    const offset = state.stop * validCounts.length;
    drawMap("q-map", (i) => (qCodes[offset + i] > STEPS ? null : qCodes[offset + i] / STEPS));
  }
  part("q-caption").textContent = qCaption();
  part("valid-caption").textContent = validCaption();
  part("q-map").setAttribute("aria-label", `Map of the thresholds. ${qCaption()} Arrow keys move the location.`);
  part("valid-map").setAttribute("aria-label", `Map of the numbers of labeled images. ${validCaption()} Arrow keys move the location.`);
  drawHistogram();
}

function qCaption() {
  const spread = thresholds.spread[state.stop];
  const name = page.isClassWise ? "Threshold q̂ at this stop, median over the classes" : "Threshold q̂ at this stop";
  if (spread && thresholds.isFlat) return `${name}: ${spread[1].toFixed(2)}, the same everywhere.`;
  return spread ? `${name}: ${spread[0].toFixed(2)} to ${spread[2].toFixed(2)}, median ${spread[1].toFixed(2)}. Light: more classes are accepted. Hatched: no finite threshold.`
    : `${name}: no location has a finite one.`;
}

const validCaption = () => `Labeled images behind each threshold${page.isClassWise ? ", for the class with the fewest" : ""}: ${[...new Set(thresholds.validRange)].join(" to ")}.`;
const describeThreshold = (code) => (code <= STEPS ? `q̂ ≈ ${(code / STEPS).toFixed(2)}` : code === INFINITE ? "too few labeled images" : "no threshold");

// Describe the location of a map at the pointer, or at a cross moved by arrow keys.
function describeAt(name, describe, caption) {
  const canvas = part(name), text = part(name.replace("map", "caption"));
  const [height, width] = thresholds.size;
  let x = width >> 1, y = height >> 1;
  const update = () => { text.textContent = `Column ${x}, row ${y}: ${describe(y * width + x)}. ${caption()}`; };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    x = Math.max(0, Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width)));
    y = Math.max(0, Math.min(height - 1, Math.floor(((event.clientY - box.top) / box.height) * height)));
    update();
  });
  canvas.addEventListener("pointerleave", () => { text.textContent = caption(); });
  canvas.addEventListener("focus", update);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    x = Math.max(0, Math.min(width - 1, x + move[0] * (event.shiftKey ? 10 : 1)));
    y = Math.max(0, Math.min(height - 1, y + move[1] * (event.shiftKey ? 10 : 1)));
    update();
  });
}

function drawHistogram() {
  const counts = new Array(BINS).fill(0);
  page.ids.forEach((_, i) => counts[Math.min(BINS - 1, Math.floor((BINS * keptOf(i, state.stop, state.rule)) / gridPixels))]++);
  const highest = Math.max(...counts);
  const area = frame(part("histogram"), [0, 1], [0, highest], "Number of images of the run by keep rate");
  axes(area, percentTicks(0), [[0, "0"], [highest, number(highest)]], "keep rate of the image");
  counts.forEach((count, bin) => {
    const [left, right] = [area.x(bin / BINS) + 1, area.x((bin + 1) / BINS) - 1];
    const bar = svg("rect", { class: "bar", x: left, width: Math.max(1, right - left), y: area.y(count), height: area.y(0) - area.y(count) });
    bar.append(svg("title", {}, `${count} images with a keep rate of ${(100 * bin) / BINS} to ${(100 * (bin + 1)) / BINS} %`));
    area.chart.append(bar);
  });
  part("histogram").replaceChildren(area.chart);
}
