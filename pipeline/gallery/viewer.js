// One large image: photograph, most probable class, calibrated labels and true mask; and the facts of one pixel.

const PANELS = {
  image: { title: "Image", labels: () => null },
  raw: { title: "Most probable class", labels: (image) => image.raw },
  calibrated: { title: "Calibrated", labels: (image) => labelsOf(image, state.stop, state.rule) },
  truth: { title: "True mask", labels: (image) => image.truth },
};
const VIEWS = [["all", "Side by side"], ...Object.entries(PANELS).map(([name, { title }]) => [name, title])];
const panelsShown = () => (state.view === "all" ? Object.keys(PANELS) : [state.view])
  .filter((name) => name !== "truth" || images[state.image].hasTruth);

function buildViewer() {
  VIEWS.forEach(([name, title], i) => {
    const input = make("input", { type: "radio", name: "gallery-view", value: name });
    input.addEventListener("change", () => setView(name));
    part("views").append(make("label", { title: `${title}: ${i + 1}` }, input, make("span", {}, title)));
  });
  for (const button of root.querySelectorAll("[data-turn]"))
    button.addEventListener("click", () => turn(Number(button.dataset.turn)));
  part("opacity").addEventListener("input", (event) => { state.opacity = event.target.value / 100; drawViewer(); drawGrid(); });
}

function drawViewer() {
  const image = images[state.image];
  if (state.view === "truth" && !image.hasTruth) state.view = "all";
  part("views").querySelectorAll("input").forEach((input) => {
    input.checked = input.value === state.view;
    input.disabled = input.value === "truth" && !image.hasTruth;
  });
  const shown = panelsShown();
  const panels = part("panels");
  if (panels.dataset.shown !== shown.join()) {
    panels.replaceChildren(...shown.map(buildPanel));
    panels.dataset.shown = shown.join();
  }
  panels.classList.toggle("one", shown.length === 1);
  panels.style.setProperty("--panels", shown.length);
  panels.style.setProperty("--aspect", image.aspect);
  drawPanels();
  drawHead(image);
  drawPixel();
}

function buildPanel(name) {
  const canvas = make("canvas", { tabindex: "0", role: "application", "data-panel": name,
    "aria-roledescription": "picture", "aria-describedby": "gallery-pixel" });
  canvas.addEventListener("pointermove", (event) => setPixel(...pixelAt(canvas, event)));
  canvas.addEventListener("pointerdown", (event) => setPixel(...pixelAt(canvas, event)));
  canvas.addEventListener("focus", () => setPixel(state.x, state.y));
  canvas.addEventListener("keydown", moveCross);
  const cross = make("div", { class: "cross" });
  return make("figure", {}, make("div", { class: "picture" }, canvas, cross), make("figcaption"));
}

function drawPanels() {
  const image = images[state.image];
  const { kept, pixels, compared, right } = imageCounts(image, state.stop, state.rule);
  const accuracy = image.hasTruth && compared ? `; ${percent(right / compared)} of the labels are right` : "";
  const captions = { calibrated: `keep rate ${percent(kept / pixels)}${accuracy}`, raw: "a label at every pixel",
    truth: "only for display", image: "" };
  for (const canvas of part("panels").querySelectorAll("canvas")) {
    const name = canvas.dataset.panel;
    paint(canvas, image, PANELS[name].labels(image), state.opacity);
    canvas.setAttribute("aria-label", `${PANELS[name].title} of ${image.id}. Arrow keys move the cross.`);
    canvas.closest("figure").querySelector("figcaption").replaceChildren(make("b", {}, PANELS[name].title), " ", captions[name]);
  }
}

function drawHead(image) {
  const { kept, pixels, byClass, changed } = imageCounts(image, state.stop, state.rule);
  const at = visible.indexOf(state.image);
  const where = at < 0 ? "not among the images below" : `${at + 1} of ${visible.length}`;
  part("image-name").replaceChildren(image.id, make("small", { class: "quiet" }, where));
  const present = byClass.map((count, k) => [count, k]).filter(([count]) => count).sort((a, b) => b[0] - a[0]);
  const entries = present.map(([count, k]) => make("li", {}, swatch(k), ` ${percent(count / pixels)}`));
  entries.push(make("li", {}, make("span", { class: "swatch hatched" }), `no label ${percent(1 - kept / pixels)}`));
  if (changed) entries.push(make("li", {}, `${percent(changed / pixels)} with a label other than the most probable class`));
  part("legend").replaceChildren(...entries);
}

function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const at = (position, length, count) => Math.min(count - 1, Math.max(0, Math.floor((position / length) * count)));
  return [at(event.clientX - box.left, box.width, page.size[1]), at(event.clientY - box.top, box.height, page.size[0])];
}

function moveCross(event) {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  event.stopPropagation();
  const length = event.shiftKey ? 10 : 1;
  const kept = (position, count) => Math.min(count - 1, Math.max(0, position));
  setPixel(kept(state.x + length * move[0], page.size[1]), kept(state.y + length * move[1], page.size[0]));
}

function setPixel(x, y) {
  Object.assign(state, { x, y });
  drawPixel();
}

function drawPixel() {
  const image = images[state.image];
  const i = state.y * page.size[1] + state.x;
  for (const cross of part("panels").querySelectorAll(".cross")) {
    cross.style.left = `${(100 * (state.x + 0.5)) / page.size[1]}%`;
    cross.style.top = `${(100 * (state.y + 0.5)) / page.size[0]}%`;
  }
  const label = labelsOf(image, state.stop, state.rule)[i];
  const rows = [`Column ${state.x}, row ${state.y}: `, make("b", {}, label === IGNORE_INDEX ? "no label" : page.classes[label].name)];
  rows.push(`. Most probable: ${page.classes[image.raw[i]].name}.`);
  if (!page.isClassWise) rows.push(` ${memberships(image, i)}`);
  if (image.truth) rows.push(` True class: ${image.truth[i] === IGNORE_INDEX ? "void" : page.classes[image.truth[i]].name}${judgement(label, image.truth[i])}.`);
  part("pixel").replaceChildren(...rows);
}

const judgement = (label, truth) => (label === IGNORE_INDEX || truth === IGNORE_INDEX ? "" : label === truth ? ", right" : ", wrong");

function memberships(image, i) {
  const members = [membership(page.classes[image.best[i]].name, image.foreground[i], i)];
  if (page.background !== null) members.push(membership(page.classes[page.background].name, image.behind[i], i));
  if (numClasses - (page.background !== null) > 1) members.push(membership(`a second ${page.background === null ? "" : "foreground "}class`, image.second[i], i));
  return `In the prediction set: ${members.join("; ")}.`;
}

// The stops at which a class is in the set: from the first finite threshold here to the end of its level.
function membership(name, level, i) {
  if (level <= first[i]) return `${name} at no stop`;
  const [from, to] = [first[i], level - 1].map((stop) => page.alphas[stop]);
  if (level === numStops && !first[i]) return `${name} at every stop`;
  const until = page.heldOut.isDescending ? "down to" : "up to"; // if alpha bounds wrong labels, small ones give few
  return `${name} ${first[i] ? `from α ${from} ${until}` : `${until} α`} ${to}`;
}
