// The state of the page, and the controls that change it.

const state = {
  stop: page.ownStop, rule: page.rules.indexOf(page.ownRule), image: 0, view: "all", opacity: 0.65,
  x: page.size[1] >> 1, y: page.size[0] >> 1, showsAll: false, ticked: new Set(), sort: { column: 1, isDescending: true },
};

// A slider sends more events than the page can draw, so it is drawn at most once per frame.
let isDue = false;
function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; drawAll(); });
}

function drawAll() {
  arrange();
  drawBar();
  drawViewer();
  drawGuarantee();
  drawCurves();
  drawPareto();
  drawClasses();
  drawMaps();
}

function drawGuarantee() {
  const { guarantees, caveats } = page.heldOut;
  part("guarantee").textContent = [`At α = ${page.alphas[state.stop]}:`, guarantees[state.stop], ...caveats, guaranteedStops()].join(" ");
}

// Which stops have a guaranteed precision, or how to get some.
function guaranteedStops() {
  if (page.guaranteed === null) return "No stop has a guaranteed precision; pseudolabel.guarantee makes labels that have one.";
  const { stops, text } = page.guaranteed;
  const alphas = page.alphas.filter((_, stop) => stops[stop]);
  return `Green: the labels of α = ${[...new Set([alphas[0], alphas[alphas.length - 1]])].join(" to ")} have ${text}, all of them together.`;
}

function setStop(stop) {
  state.stop = Math.max(0, Math.min(numStops - 1, stop));
  changed();
}

function setRule(rule) {
  state.rule = rule;
  changed();
}

function setImage(i) {
  state.image = i;
  drawViewer();
  drawGrid();
}

function setView(view) {
  state.view = view;
  drawViewer();
  drawGrid();
}

// Show the next image that passes the filters; if the current image does not pass them, the first one.
function turn(by) {
  if (!visible.length) return;
  const at = visible.indexOf(state.image);
  setImage(visible[at < 0 ? 0 : (at + by + visible.length) % visible.length]);
}

const KEYS = {
  "[": () => setStop(state.stop - 1), "]": () => setStop(state.stop + 1), ArrowLeft: () => turn(-1), ArrowRight: () => turn(1),
  "?": () => part("help-dialog").showModal(),
};
VIEWS.forEach(([name], i) => {
  KEYS[i + 1] = () => (name === "truth" && !images[state.image].hasTruth ? announce("This image has no mask") : setView(name));
});

// Keys act while the gallery is on the screen, except while typing and on controls that use the arrow keys.
function onKey(event) {
  const box = root.getBoundingClientRect();
  const isInSight = box.top < window.innerHeight && box.bottom > 0;
  const isTyping = event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
  const isOwnArrow = isTyping && (event.key.startsWith("Arrow") || !event.target.matches("[type=range], [type=radio]"));
  if (!isInSight || isOwnArrow || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

async function start() {
  await decode();
  await buildMaps();
  buildBar();
  buildViewer();
  buildGrid();
  buildClasses();
  part("help").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", onKey);
  drawAll();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return; // phones resize when the address bar disappears
    width = window.innerWidth;
    changed();
  });
}

function fail(error) {
  part("failure").hidden = false;
  part("failure").textContent = "DecompressionStream" in window ? `The gallery cannot be shown: ${error.message}`
    : "The gallery needs DecompressionStream, which this browser does not have; use a browser of 2023 or later.";
  throw error;
}

// For tests and the browser console: counts of one image at the size of the page, and of all images on the grid.
window.conformalGallery = {
  alphas: page.alphas, rules: page.rules, ids: page.images.map(({ id }) => id),
  ready: start().catch(fail),
  counts: (id, stop, rule) => countLabels(images.find((image) => image.id === id), stop, page.rules.indexOf(rule)),
  gridCounts: (id, stop, rule) => imageCounts(images.find((image) => image.id === id), stop, page.rules.indexOf(rule)),
  runCounts: (stop, rule) => runCounts(stop, page.rules.indexOf(rule)),
  keptOf: (id, stop, rule) => keptOf(page.ids.indexOf(id), stop, page.rules.indexOf(rule)),
  shown: () => ({ alpha: page.alphas[state.stop], rule: page.rules[state.rule], image: images[state.image].id, view: state.view }),
};
