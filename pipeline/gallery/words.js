// Numbers as text, and new elements.

const percent = (fraction, digits = 1) => (fraction === null || Number.isNaN(fraction) ? "–" : `${(100 * fraction).toFixed(digits)}\u00a0%`);
const ratio = (some, all) => (all ? some / all : null);
const range = (estimate) => `${percent(estimate[1])} to ${percent(estimate[2])}`;
const number = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const value = (estimate) => (estimate ? estimate[0] : null);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, content] of Object.entries(attributes)) element.setAttribute(name, content);
  element.append(...children);
  return element;
}

function swatch(k) {
  const colour = make("span", { class: "swatch" });
  colour.style.background = page.classes[k].colour;
  return make("span", { class: "class" }, colour, page.classes[k].name);
}

function announce(text) {
  part("announcement").textContent = "";
  requestAnimationFrame(() => { part("announcement").textContent = text; });
}

async function copy(text, what, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", { "aria-hidden": "true", style: "position:fixed;opacity:0" });
    field.value = text;
    root.append(field);
    field.select();
    copied = document.execCommand("copy"); // for pages opened from disk, which may not use the clipboard
    field.remove();
    button.focus();
  }
  announce(copied ? `Copied ${what}` : "This browser does not allow the page to copy");
}
