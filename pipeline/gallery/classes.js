// The table of the classes at the current stop; the headings sort it.

const COLUMNS = [
  { name: "class", key: (row) => row.name, cell: (row) => swatch(row.k), isText: true },
  { name: "pixels", key: (row) => row.pixels, cell: (row) => number(row.pixels) },
  { name: "fraction of labels", key: (row) => row.fraction, cell: (row) => percent(row.fraction) },
  { name: "kept", key: (row) => row.kept, cell: (row) => percent(row.kept) },
  { name: "held-out precision", key: (row) => value(row.precision), cell: (row) => estimateCell(row.precision) },
  { name: "held-out coverage", key: (row) => value(row.coverage), cell: (row) => coverageCell(row) },
];

function buildClasses() {
  const head = make("tr");
  COLUMNS.forEach(({ name, isText }, c) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      const isSame = state.sort.column === c;
      state.sort = { column: c, isDescending: isSame ? !state.sort.isDescending : !isText };
      drawClasses();
    });
    head.append(make("th", { scope: "col", class: isText ? "" : "num" }, button));
  });
  part("classes").append(make("thead", {}, head), make("tbody"));
}

function classRows() {
  const counts = runCounts(state.stop, state.rule);
  const { coverageByClass, byRule, isRisk, targets } = page.heldOut;
  return page.classes.map(({ name }, k) => {
    const coverage = coverageByClass[k][state.stop];
    return {
      k, name, coverage, pixels: counts.byClass[k], fraction: ratio(counts.byClass[k], counts.kept),
      kept: ratio(counts.keptOfRaw[k], page.rawPixels[k]), precision: byRule[state.rule].precisionByClass[k][state.stop],
      isUnder: !isRisk && coverage !== null && coverage[2] < targets[state.stop],
    };
  });
}

const isMissing = (content) => content === null || content === undefined;

function drawClasses() {
  const { column, isDescending } = state.sort;
  const { key } = COLUMNS[column];
  const rows = classRows().sort((a, b) => {
    const [first, second] = [key(a), key(b)];
    if (isMissing(first) || isMissing(second)) return isMissing(first) - isMissing(second) || a.k - b.k; // dashes last
    return (first < second ? -1 : first > second ? 1 : a.k - b.k) * (isDescending ? -1 : 1);
  });
  part("classes").querySelectorAll("thead th").forEach((th, c) => {
    th.setAttribute("aria-sort", c === column ? (isDescending ? "descending" : "ascending") : "none");
  });
  part("classes").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {},
    ...COLUMNS.map(({ cell, isText }) => make(isText ? "th" : "td", isText ? { scope: "row" } : { class: "num" }, cell(row))))));
}

function estimateCell(estimate) {
  if (!estimate) return "–";
  const cell = document.createDocumentFragment();
  cell.append(percent(estimate[0]), make("span", { class: "range" }, range(estimate)));
  return cell;
}

function coverageCell({ coverage, isUnder }) {
  const cell = document.createDocumentFragment();
  cell.append(estimateCell(coverage));
  if (isUnder) cell.append(" ", make("span", { class: "under" }, "▼ under-covered"));
  return cell;
}
