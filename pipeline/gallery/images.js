// The images: thumbnails at the current stop, sorted and filtered, and lists of their ids.

const FIRST_CARDS = 18;
const SORTS = {
  id: { title: "name", key: (image) => image.id },
  kept: { title: "keep rate, lowest first", key: (image) => image.now.kept },
  kept_most: { title: "keep rate, highest first", key: (image) => -image.now.kept },
  changed: { title: "changed by calibration, most first", key: (image) => -image.now.changed },
  right: { title: "precision of the labels, lowest first", key: (image) => (image.now.compared ? image.now.right / image.now.compared : 2) },
};
let visible = []; // indices in `images`, in the order shown
const cards = [];
const inSight = new Set();

function buildGrid() {
  const hasTruth = images.some((image) => image.hasTruth);
  for (const [name, { title }] of Object.entries(SORTS)) {
    if (name === "right" && !hasTruth) continue;
    if (name === "changed" && page.background === null && !page.isClassWise) continue; // it is 0 everywhere
    part("sort").append(make("option", { value: name }, title));
  }
  page.classes.forEach(({ name }, k) => part("class-filter").append(make("option", { value: k }, name)));
  images.forEach((_, i) => cards.push(buildCard(i)));
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const i = Number(target.dataset.image);
      isIntersecting ? inSight.add(i) : inSight.delete(i);
      if (isIntersecting) paintCard(i);
    }
  }, { rootMargin: "200px" });
  cards.forEach((card) => watcher.observe(card));
  const filters = part("filters");
  filters.addEventListener("input", arrange);
  filters.addEventListener("reset", () => requestAnimationFrame(arrange));
  filters.addEventListener("submit", (event) => event.preventDefault());
  part("more").addEventListener("click", () => { state.showsAll = !state.showsAll; arrange(); });
  for (const button of root.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copyIds(button));
}

function buildCard(i) {
  const { id, aspect } = images[i];
  const canvas = make("canvas", { role: "img" });
  canvas.style.aspectRatio = aspect;
  const button = make("button", { type: "button", class: "card" }, canvas,
    make("span", { class: "name", title: id }, id), make("span", { class: "facts" }), make("span", { class: "meter" }));
  button.addEventListener("click", () => { setImage(i); part("image-name").scrollIntoView({ block: "nearest" }); });
  const tick = make("input", { type: "checkbox", class: "tick", "aria-label": `Tick ${id} for a list` });
  tick.addEventListener("change", () => {
    tick.checked ? state.ticked.add(i) : state.ticked.delete(i);
    part("chosen-count").textContent = state.ticked.size;
  });
  return make("li", { "data-image": i, "data-id": id }, button, tick);
}

// Count the labels of every image at this stop; filter and sort the images.
function arrange() {
  images.forEach((image) => { image.now = imageCounts(image, state.stop, state.rule); });
  const { key } = SORTS[part("sort").value];
  const classFilter = part("class-filter").value;
  const keys = images.map(key);
  visible = images.map((_, i) => i)
    .filter((i) => passes(images[i].id, images[i].now.kept) && (classFilter === "" || images[i].now.byClass[classFilter] > 0))
    .sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
  const shown = state.showsAll ? visible : visible.slice(0, FIRST_CARDS);
  const grid = part("grid");
  const focused = grid.contains(document.activeElement) ? document.activeElement : null;
  if (shown.join() !== Array.from(grid.children, (card) => card.dataset.image).join()) {
    grid.replaceChildren(...shown.map((i) => cards[i]));
    if (focused && grid.contains(focused)) focused.focus({ preventScroll: true });
  }
  part("more").hidden = visible.length <= FIRST_CARDS;
  part("more").textContent = state.showsAll ? "Show fewer" : `Show all ${visible.length}`;
  part("shown-count").textContent = `${visible.length} of ${images.length} images`;
  part("run-count").textContent = number(idsOfRun().length);
  drawGrid();
}

function passes(id, kept) {
  const [low, high] = ["kept-low", "kept-high"].map((name) => Number(part(name).value));
  const rate = (100 * kept) / gridPixels;
  return rate >= low && rate <= high && id.toLowerCase().includes(part("text-filter").value.toLowerCase());
}

const idsOfRun = () => page.ids.filter((id, index) => passes(id, keptOf(index, state.stop, state.rule)));

function copyIds(button) {
  const lists = { shown: () => visible.map((i) => images[i].id), run: idsOfRun,
    chosen: () => images.filter((_, i) => state.ticked.has(i)).map(({ id }) => id) };
  const ids = lists[button.dataset.copy]();
  copy(ids.join("\n"), `${ids.length} ids`, button);
}

const viewOf = (image) => (state.view === "all" || (state.view === "truth" && !image.hasTruth) ? "calibrated" : state.view);

function drawGrid() {
  visible.forEach(updateCard);
  inSight.forEach(paintCard);
}

function paintCard(i) {
  paint(cards[i].querySelector("canvas"), images[i], PANELS[viewOf(images[i])].labels(images[i]), state.opacity);
}

function updateCard(i) {
  const image = images[i], card = cards[i];
  const { kept, pixels, changed, compared, right } = image.now;
  const facts = [`${percent(kept / pixels)} kept`];
  if (image.hasTruth && compared) facts.push(`${percent(right / compared, 0)} right`);
  if (changed) facts.push(`${percent(changed / pixels)} changed`);
  card.querySelector("canvas").setAttribute("aria-label", `${PANELS[viewOf(image)].title}:`);
  card.querySelector(".facts").textContent = facts.join(" · ");
  card.querySelector(".meter").style.setProperty("--fraction", percent(kept / pixels, 2).replace("\u00a0", ""));
  card.querySelector(".card").setAttribute("aria-current", String(i === state.image));
}
