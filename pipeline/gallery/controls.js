// The bar: alpha and rule, their numbers, and the command that writes these labels.

const slider = part("slider");
const isOwn = () => state.stop === page.ownStop && page.rules[state.rule] === page.ownRule;

function buildBar() {
  slider.max = numStops - 1;
  slider.addEventListener("input", () => setStop(Number(slider.value)));
  for (const button of root.querySelectorAll("[data-step]"))
    button.addEventListener("click", () => setStop(state.stop + Number(button.dataset.step)));
  page.rules.forEach((name, rule) => {
    const input = make("input", { type: "radio", name: "gallery-rule", value: rule });
    input.addEventListener("change", () => setRule(rule));
    part("rules").append(make("label", {}, input, make("span", {}, name)));
  });
  part("copy-command").addEventListener("click", (event) => copy(command(), "the command", event.currentTarget));
  part("reset").addEventListener("click", () => { setRule(page.rules.indexOf(page.ownRule)); setStop(page.ownStop); });
}

const positionOf = (stop) => `${(100 * stop) / Math.max(numStops - 1, 1)}%`;

const isGuaranteed = (stop) => page.guaranteed !== null && page.guaranteed.rule === state.rule && page.guaranteed.stops[stop];

// Under the slider: stops with too few images or with a guaranteed precision, and the alphas of some stops.
function drawMarks() {
  part("marks").replaceChildren();
  page.alphas.forEach((_, stop) => {
    const lacking = page.thresholds.tooFew[stop];
    if (!lacking && !isGuaranteed(stop)) return;
    const zone = make("span", { class: `zone ${isGuaranteed(stop) ? "guaranteed" : lacking === 1 ? "all" : ""}` });
    zone.style.left = `calc(${positionOf(stop)} - ${50 / numStops}%)`;
    zone.style.width = `${100 / numStops}%`;
    part("marks").append(zone);
  });
  for (const { stop, text, isOwnStop } of ticks(part("marks").clientWidth)) {
    const mark = make("span", isOwnStop ? { class: "own" } : {}, text);
    mark.style.left = positionOf(stop);
    part("marks").append(mark);
  }
}

// A few round alphas that are stops, at a distance from each other and from the run's own.
function ticks(width) {
  const chosen = [{ stop: page.ownStop, text: "run", isOwnStop: true }];
  for (const alpha of [page.alphas[0], page.alphas[numStops - 1], 0.1, 0.2, 0.5, 0.05, 0.3, 0.02, 0.01, 0.4, 0.7]) {
    const stop = page.alphas.indexOf(alpha);
    const isApart = chosen.every((other) => Math.abs(other.stop - stop) * width > 38 * numStops);
    if (stop >= 0 && isApart) chosen.push({ stop, text: String(alpha) });
  }
  return chosen;
}

const command = () => page.commands[state.rule][state.stop];

function drawBar() {
  const alpha = String(page.alphas[state.stop]);
  slider.value = state.stop;
  slider.setAttribute("aria-valuetext", `alpha ${alpha}${state.stop === page.ownStop ? ", the run's own" : ""}`);
  part("alpha").textContent = alpha;
  for (const button of root.querySelectorAll("[data-step]"))
    button.disabled = !(state.stop + Number(button.dataset.step) in page.alphas);
  part("rules").querySelectorAll("input").forEach((input, rule) => { input.checked = rule === state.rule; });
  drawMarks();
  part("command").textContent = command();
  part("reset").disabled = isOwn();
  part("live").replaceChildren(...liveFacts());
  part("stop-note").replaceChildren(...stopNote());
}

function liveFacts() {
  const { kept, pixels } = runCounts(state.stop, state.rule);
  const facts = [fact("Keep rate", percent(ratio(kept, pixels)), `of ${number(page.ids.length)} images`)];
  const { isRisk, targets, coverage, byRule } = page.heldOut;
  const guaranteed = isRisk ? byRule[state.rule].wrong[state.stop] : coverage[state.stop];
  const target = `${isRisk ? "at most" : "target"} ${percent(targets[state.stop])}`;
  facts.push(fact(isRisk ? "Held-out wrong pixels" : "Held-out coverage", percent(value(guaranteed)), guaranteed ? `${range(guaranteed)}, ${target}` : target));
  const precision = byRule[state.rule].precision[state.stop];
  facts.push(fact("Held-out precision", percent(value(precision)), precision ? range(precision) : ""));
  const { raw } = page.heldOut;
  const sameKeep = byRule[state.rule].sameKeep[state.stop];
  if (raw[0]) facts.push(fact("Precision of argmax", percent(raw[0][0]),
    sameKeep ? `${percent(sameKeep[0])} at this keep rate` : ""));
  const miou = byRule[state.rule].miou[state.stop];
  if (miou) facts.push(fact("Held-out mIoU of labels", percent(miou[0]), `${range(miou)}; argmax ${percent(raw[1][0])}`));
  return facts;
}

const fact = (name, content, more) => make("div", {}, make("dt", {}, name), make("dd", {}, content, make("span", { class: "range" }, more)));

function stopNote() {
  const lacking = page.thresholds.tooFew[state.stop];
  const notes = [isOwn() ? "These are the stored labels." : "This is a preview; the stored labels have alpha " +
    `${page.alphas[page.ownStop]}, rule ${page.ownRule}.`];
  if (isGuaranteed(state.stop)) return [make("b", { class: "guaranteed" }, `Guaranteed: ${page.guaranteed.text}.`), " ", ...notes];
  if (!lacking) return notes;
  const effect = { abstain: "they get no label", accept: "every class is in their sets", max: "their threshold is the largest score",
    raise: "calibrate ends with an error" }[page.thresholds.uncalibrated];
  const enough = page.thresholds.tooFew.indexOf(0);
  const from = enough < 0 ? "" : ` From α ${page.alphas[enough]} on, all have enough.`;
  const warning = `${percent(lacking)} of the locations have too few labeled images for this alpha`;
  return [make("b", {}, `${warning}: ${effect}.`), `${from} `, ...notes];
}
