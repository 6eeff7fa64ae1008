import { find, h } from "./dom.js";
import { bytes, time } from "./format.js";

const MOST = 16;
let corpora = [];

export function showTexts(stored) {
  corpora = stored;
}

// One more row: a name, a stored text, a budget of its own. `values` as request_body.js gives them.
export function addText(values = {}) {
  const rows = [...texts(), values];
  if (rows.length > MOST) return;
  draw(rows);
  find("further-texts").open = true;
  find(`f-evaluation.${rows.length - 1}.name`).focus();
}

// Rows are numbered by their place, so that names are those of the request, and of the mistakes that it answers with.
function draw(rows) {
  find("evaluation").replaceChildren(...rows.map(row));
  find("add-text").disabled = rows.length === MOST;
}

function texts() {
  return [...find("evaluation").children].map((part) => Object.fromEntries([...part.querySelectorAll("input, select")].map((one) => [one.name.replace(/^evaluation\.\d+\./, ""), one.value])));
}

function remove(index) {
  draw(texts().toSpliced(index, 1));
  find("add-text").focus();
}

function row(values, index) {
  const options = corpora.map((corpus) => h("option", { value: corpus.id }, `${bytes(corpus.size)} of ${corpus.format === "jsonl" ? "JSON lines" : "text"}, ${time(corpus.created)}`));
  const part = h("fieldset", { class: "plain further" },
    h("legend", {}, `Text ${index + 1}`),
    h("div", { class: "row" },
      field(index, "name", "Name", h("input", { required: true, maxlength: "63", pattern: "[A-Za-z0-9_.\\-]+", title: "letters, digits, _ . -", spellcheck: "false", autocomplete: "off" })),
      field(index, "corpus", "Uploaded text", h("select", { required: true }, options)),
      field(index, "drift.perplexity", "Growth of perplexity, at most (%)", h("input", { type: "number", min: "0.0001", max: "1000", step: "any", inputmode: "decimal", placeholder: "as above" }))),
    h("button", { type: "button", class: "button small", onclick: () => remove(index) }, "Remove", h("span", { class: "unseen" }, ` text ${index + 1}`)));
  for (const one of part.querySelectorAll("input, select")) {
    const value = values[one.name.replace(/^evaluation\.\d+\./, "")];
    if (value !== undefined) one.value = value;
  }
  return part;
}

function field(index, name, label, control) {
  const whole = `evaluation.${index}.${name}`;
  control.setAttribute("name", whole);
  control.setAttribute("id", `f-${whole}`);
  control.setAttribute("aria-describedby", `e-${whole}`);
  return h("div", { class: "field" }, h("label", { for: `f-${whole}` }, label), control, h("p", { class: "error", id: `e-${whole}` }));
}
