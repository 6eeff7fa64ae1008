// Nodes, never HTML: text that users can name stays text.

export const find = (id) => document.getElementById(id);

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Fill a place only when what it shows has changed, so that focus and selection stay where they are.
const shown = new WeakMap();
export function fill(place, source, build) {
  const key = JSON.stringify(source);
  if (shown.get(place) === key) return false;
  shown.set(place, key);
  place.replaceChildren(...[build(source)].flat(2).filter(Boolean));
  return true;
}

// For screen readers; the same words twice are told once.
export function announce(text) {
  const live = find("live");
  if (live.textContent !== text) live.textContent = text;
}

export function complain(error, place = find("alert")) {
  place.replaceChildren(h("div", { class: "notice bad" }, h("p", {}, h("strong", {}, error.title ?? "Something went wrong"), h("br"), error.message)));
}

export function calm(place = find("alert")) {
  place.replaceChildren();
}

export function command(text, title = null) {
  const button = h("button", { type: "button", class: "button small copy", onclick: () => copy(text, button) }, "Copy", h("span", { class: "unseen" }, ` ${title ?? "command"}`));
  return [title && h("p", { class: "command-title" }, title), h("div", { class: "command" }, h("pre", { tabindex: "0" }, text), button)];
}

async function copy(text, button) {
  const label = button.firstChild;
  try {
    await navigator.clipboard.writeText(text);
    label.data = "Copied";
    announce("Copied");
  } catch {
    label.data = "Select it";
    getSelection().selectAllChildren(button.previousElementSibling);
  }
  setTimeout(() => { label.data = "Copy"; }, 1500);
}

// rows: {cells: [node or text], chosen}. The first cell of a row is its header.
export function table(caption, heads, rows, className = null) {
  const cell = (content, index) => h(index === 0 ? "th" : "td", index === 0 ? { scope: "row" } : {}, content);
  return h("div", { class: "wide", tabindex: "0", role: "group", "aria-label": caption },
    h("table", { class: className },
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.chosen ? "chosen" : null }, row.cells.map(cell))))));
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
