import { announce, calm, command, complain, facts, fill, find, h } from "./dom.js";
import { bytes, change, count, percent, seconds, time } from "./format.js";
import { get, post, upload } from "./http.js";
import { jobPath } from "./job_view.js";
import { addText, showTexts } from "./evaluation_texts.js";
import { FieldMistake, bodyOf, fieldsOf } from "./request_body.js";

const form = find("job-form");
const alertPlace = find("form-alert");
const asked = new URLSearchParams(location.search);
let uploaded = null; // {file, field, id}: the same file is sent once

function follow() {
  const kind = form.elements.kind.value;
  for (const element of form.querySelectorAll("[data-kinds]")) enable(element, element.dataset.kinds.split(" ").includes(kind));
  for (const element of form.querySelectorAll("[data-source]")) enable(element, element.dataset.source === form.elements.source.value);
  for (const element of form.querySelectorAll("[data-amount]")) enable(element, kind === "compress" && element.dataset.amount === form.elements.amount.value);
  preview();
}

// What does not apply is hidden, and neither sent nor checked. A budget of compare is one to judge by, not a default.
function enable(element, on) {
  const control = element.matches("input, select, textarea");
  (control ? element.closest(".field") : element).hidden = !on;
  for (const one of control ? [element] : element.querySelectorAll("input, select, textarea")) one.disabled = !on;
}

function entries() {
  return [...new FormData(form)];
}

function preview() {
  let body;
  try {
    const source = form.elements.source.value;
    const text = form.elements["corpus.text"].value;
    const corpus = source === "stored" ? form.elements.corpus.value || null : source === "text" ? { text: text.length > 60 ? `${text.slice(0, 60)}…` : text } : (uploaded?.id ?? "corpus_… (of the file, once it is uploaded)");
    body = JSON.stringify(bodyOf(entries(), corpus), null, 2);
  } catch {
    return;
  }
  fill(find("request"), body, () => command(body, `POST ${location.origin}/v1/jobs`));
}

async function corpusOf() {
  const source = form.elements.source.value;
  if (source === "stored") return form.elements.corpus.value;
  if (source === "text") return { text: form.elements["corpus.text"].value };
  const file = form.elements.file.files[0];
  const field = form.elements.field.value.trim();
  if (uploaded?.file !== file || uploaded.field !== field) {
    const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload of the text" });
    alertPlace.replaceChildren(h("p", {}, `Uploading ${file.name}`, bar));
    uploaded = { file, field, id: (await upload(file, field, (done) => { bar.value = done; bar.textContent = percent(done); })).id };
    calm(alertPlace);
  }
  return uploaded.id;
}

function mark(control, message) {
  const place = find(`e-${control.name}`);
  if (place) place.textContent = message;
  if (message) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

// In the browser's own words; the first mistake gets the focus.
function check() {
  const wrong = [...form.elements].filter((control) => control.willValidate && control.name && !control.checkValidity());
  for (const control of wrong) mark(control, control.validity.patternMismatch ? `Write it as ${control.title}.` : control.validationMessage);
  if (wrong.length) reveal(wrong[0]);
  return wrong.length === 0;
}

function reveal(control) {
  const around = control.closest("details");
  if (around) around.open = true;
  control.focus();
}

function clearMarks() {
  calm(alertPlace);
  for (const control of form.querySelectorAll("[aria-invalid]")) mark(control, "");
}

const FIELD_OF_CODE = { model_not_found: "model", invalid_model_id: "model", unsafe_model: "model", unsupported_model: "model", unsupported_head: "model", corrupt_checkpoint: "model", model_too_large: "model", ratio_too_small: "ratio" };

function controlOf(field) {
  const control = form.elements[field] ?? form.elements[field?.replace(/\.(id|text|\d.*)$/, "")];
  return control instanceof Element && !control.disabled ? control : null;
}

// The problem's sentence, beside the field that it is about where there is one.
function tell(error) {
  const mistakes = error instanceof FieldMistake ? [error] : (error.errors ?? []);
  const named = mistakes.length ? mistakes : [{ field: FIELD_OF_CODE[error.code], message: error.message }];
  let first = null;
  for (const { field, message } of named) {
    const control = controlOf(field);
    if (!control) continue;
    mark(control, message);
    first ??= control;
  }
  complain(error instanceof FieldMistake ? { title: "A field is not right", message: error.message } : error, alertPlace);
  if (first) reveal(first);
  else alertPlace.focus();
}

async function tryOut(body) {
  const found = await post("/v1/jobs?validate_only=true", body);
  const { model, head, estimate } = found;
  find("dry-run").replaceChildren(h("div", { class: "card" }, h("h2", {}, "Dry run"),
    h("p", {}, h("span", { class: "pill succeeded" }, "This would run"), " Nothing was stored."),
    facts([
      ["Model", `${model.id}, ${bytes(model.bytes)} of ${model.dtype}`],
      ["Output head", `${count(head.vocab_size)} × ${count(head.hidden_size)}, ${bytes(head.bytes)}, ${head.tied ? "shares the input table" : "has its own table"}`],
      ["Columns that stay", estimate.kept_columns === null ? (body.kind === "compress" ? "as few as pass: only measuring can tell" : null) : `${count(estimate.kept_columns)} of ${count(head.hidden_size)}`],
      ["Head afterwards", estimate.head_bytes_after === null ? null : `${bytes(estimate.head_bytes_after)} (${change(head.bytes, estimate.head_bytes_after)})`],
      ["Time", `about ${seconds(estimate.seconds)} on one CPU core`],
      ["Memory", `about ${bytes(estimate.memory_bytes)}`],
    ])));
  announce("The job would run.");
}

// A secret that was made for the webhook is in this one answer only: it is shown before the page is left.
function leave(job) {
  if (!job.webhook?.secret) {
    location.assign(jobPath(job.id));
    return;
  }
  alertPlace.replaceChildren(h("div", { class: "notice" },
    h("p", {}, h("strong", {}, "The job is queued. Keep this secret: it is shown only now."), h("br"), "It signs what the address will get."),
    command(job.webhook.secret, "secret of the webhook"),
    h("p", {}, h("a", { class: "button primary", href: jobPath(job.id) }, "To the job"))));
  alertPlace.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearMarks();
  const starts = event.submitter?.value !== "try";
  if (!check()) return;
  const buttons = form.querySelectorAll("button[name=do]");
  for (const button of buttons) button.disabled = true;
  try {
    bodyOf(entries(), null); // mistakes are told before a file is sent
    const body = bodyOf(entries(), await corpusOf());
    if (!starts) await tryOut(body);
    else leave(await post("/v1/jobs", body));
  } catch (error) {
    tell(error);
  }
  for (const button of buttons) button.disabled = false;
});
form.addEventListener("input", (event) => {
  if (event.target.hasAttribute("aria-invalid")) mark(event.target, "");
  follow();
});

find("add-text").addEventListener("click", () => { addText(); follow(); });
find("evaluation").addEventListener("click", follow);

async function offer() {
  const [models, corpora, before] = await Promise.all([get("/v1/models"), get("/v1/corpora"), asked.get("from") ? get(`/v1/jobs/${encodeURIComponent(asked.get("from"))}`) : null]);
  const local = models.data.filter((model) => model.kind === "local");
  find("model-list").replaceChildren(...local.map((model) => h("option", { value: model.id })));
  form.elements.corpus.replaceChildren(...corpora.data.map((corpus) => h("option", { value: corpus.id }, `${bytes(corpus.size)} of ${corpus.format === "jsonl" ? "JSON lines" : "text"}, ${time(corpus.created)}`)));
  showTexts(corpora.data);
  if (!corpora.data.length) form.elements.source.value = "upload";
  if (before) set(fieldsOf(before));
  else if (local.length === 1 && !asked.get("model")) set({ model: local[0].id });
  if (asked.get("model")) set({ model: asked.get("model") });
  if (asked.get("corpus")) set({ corpus: asked.get("corpus"), source: "stored" });
  if (asked.get("ratio")) set({ amount: "fixed", ratio: String(Number((100 * Number(asked.get("ratio"))).toPrecision(10))) });
}

function set({ evaluation = [], ...fields }) {
  for (const text of evaluation) addText(text);
  for (const [name, value] of Object.entries(fields)) {
    const control = form.elements[name];
    if (control instanceof RadioNodeList && control[0].type === "checkbox") for (const box of control) box.checked = value.includes(box.value);
    else if (control?.type === "checkbox") control.checked = Boolean(value);
    else if (control) control.value = value;
  }
  for (const part of form.querySelectorAll("details")) part.open ||= [...part.querySelectorAll("input:not([type=checkbox])")].some((input) => input.value);
}

follow();
offer().then(follow, (error) => complain(error));
