// The embedded data, decoded, and the exact labels of any stop and rule, computed by comparing integers.

const IGNORE_INDEX = 255;
const root = document.currentScript.closest(".gallery");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const page = JSON.parse(part("data").textContent);
const numStops = page.alphas.length;
const numClasses = page.classes.length;
const numRules = page.rules.length;
const numPixels = page.size[0] * page.size[1];
const gridPixels = page.grid[0] * page.grid[1];

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Counts are embedded as differences along the stops.
async function unpackCounts(text) {
  const counts = new Int32Array(await unpack(text));
  for (let i = 0; i < counts.length; i += numStops)
    for (let stop = 1; stop < numStops; stop++) counts[i + stop] += counts[i + stop - 1];
  return counts;
}

async function decodeImage(image) {
  const [planes, table, photo] = await Promise.all([unpack(image.planes), unpackCounts(image.table), decodePhoto(image.photo)]);
  const bytes = new Uint8Array(planes);
  const plane = (i) => bytes.subarray(i * numPixels, (i + 1) * numPixels);
  const decoded = { id: image.id, aspect: image.aspect, hasTruth: image.hasTruth, photo, table };
  const count = bytes.length / numPixels;
  decoded.truth = image.hasTruth ? plane(count - 1) : null;
  if (page.isClassWise) {
    decoded.labels = page.alphas.map((_, stop) => plane(stop));
    decoded.raw = plane(numStops);
  } else {
    [decoded.best, decoded.foreground, decoded.second] = [plane(0), plane(1), plane(2)];
    const hasBackground = page.background !== null;
    decoded.behind = hasBackground ? plane(3) : new Uint8Array(numPixels);
    decoded.wins = hasBackground ? plane(4) : new Uint8Array(numPixels);
    decoded.raw = hasBackground ? decoded.best.map((best, i) => (decoded.wins[i] ? page.background : best)) : decoded.best;
  }
  return decoded;
}

async function decodePhoto(address) {
  const photo = new Image();
  photo.src = address;
  await photo.decode();
  return photo;
}

// Labels of an image at a stop: Uint8Array of class indices, IGNORE_INDEX = no label.
function labelsOf(image, stop, rule) {
  if (page.isClassWise) return image.labels[stop];
  const { best, foreground, second, behind, wins } = image;
  const labels = new Uint8Array(numPixels);
  const table = page.ruleTables[rule]; // calib.Rule.table: 0 abstain, 1 foreground, 2 background
  for (let i = 0; i < numPixels; i++) {
    const hasThreshold = stop >= first[i];
    const inSet = hasThreshold * ((stop < foreground[i]) | ((stop < second[i]) << 1) | ((stop < behind[i]) << 2));
    const decision = table[(wins[i] ? 8 : 0) | inSet];
    labels[i] = decision === 1 ? best[i] : decision === 2 ? page.background : IGNORE_INDEX;
  }
  return labels;
}

// Counts of the labels at the size of the page.
function countLabels(image, stop, rule) {
  const labels = labelsOf(image, stop, rule);
  const byClass = new Array(numClasses).fill(0);
  let changed = 0;
  for (let i = 0; i < numPixels; i++) {
    if (labels[i] === IGNORE_INDEX) continue;
    byClass[labels[i]]++;
    if (labels[i] !== image.raw[i]) changed++;
  }
  return { pixels: numPixels, kept: byClass.reduce((a, b) => a + b, 0), byClass, changed };
}

// Counts on the whole grid of an image that is shown.
function imageCounts(image, stop, rule) {
  const row = (r) => image.table[(rule * (numClasses + 3) + r) * numStops + stop];
  const byClass = Array.from({ length: numClasses }, (_, k) => row(k));
  return {
    pixels: gridPixels, kept: byClass.reduce((a, b) => a + b, 0), byClass, changed: row(numClasses),
    compared: row(numClasses + 1), right: row(numClasses + 2),
  };
}

// Counts of all images of the run.
function runCounts(stop, rule) {
  const { byLabel, byRaw, changed } = page.totals[rule];
  const byClass = byLabel.map((row) => row[stop]);
  return {
    pixels: gridPixels * page.ids.length, kept: byClass.reduce((a, b) => a + b, 0), byClass,
    keptOfRaw: byRaw.map((row) => row[stop]), changed: changed[stop],
  };
}

// Labeled pixels of any image of the run, by its index in page.ids.
const keptOf = (index, stop, rule) => keptOfAll[(index * numRules + rule) * numStops + stop];

let first, keptOfAll, images; // set by `decode`

async function decode() {
  first = new Uint8Array(await unpack(page.first));
  keptOfAll = await unpackCounts(page.keptOfAll);
  images = await Promise.all(page.images.map(decodeImage));
}
