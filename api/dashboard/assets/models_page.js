import { announce, calm, command, complain, fill, find, h, table } from "./dom.js";
import { bytes, percent, time } from "./format.js";
import { get, send, upload } from "./http.js";
import { jobPath } from "./job_view.js";
import { keepAsking } from "./live.js";

async function look() {
  const [models, corpora] = await Promise.all([get("/v1/models"), get("/v1/corpora")]);
  fill(find("models"), models.data, showModels);
  fill(find("corpora"), corpora.data, showCorpora);
  return false;
}

function showModels(models) {
  if (!models.length) return h("div", { class: "card empty" }, h("h2", {}, "No models here yet"), h("p", { class: "dim" }, "Put them into the models folder as namespace/name, or name a model of the hub in a job."), command("headroom serve --models-dir DIR"));
  const rows = models.map((model) => ({
    cells: [
      model.repository ?? model.id,
      model.kind === "local" ? "on disk" : ["made from ", model.id],
      model.kind === "local"
        ? h("a", { href: `/new?model=${encodeURIComponent(model.id)}` }, "New job", h("span", { class: "unseen" }, ` with ${model.id}`))
        : h("a", { href: jobPath(model.job_id) }, "Job and files", h("span", { class: "unseen" }, ` of ${model.repository}`)),
    ],
  }));
  return h("div", { class: "card" }, table("Models", ["Model", "Where from", "Next"], rows, "words"));
}

function showCorpora(corpora) {
  if (!corpora.length) return h("div", { class: "card empty" }, h("h2", {}, "No texts yet"), h("p", { class: "dim" }, "Upload text that is like what the model will read in use."));
  const rows = corpora.map((corpus) => ({
    cells: [
      h("code", {}, corpus.id),
      bytes(corpus.size),
      corpus.format === "jsonl" ? `JSON lines, ${corpus.field}` : "text",
      time(corpus.created),
      [h("a", { href: `/new?corpus=${encodeURIComponent(corpus.id)}` }, "Use", h("span", { class: "unseen" }, ` ${corpus.id}`)), " ",
        h("button", { class: "button small", onclick: () => remove(corpus) }, "Delete", h("span", { class: "unseen" }, ` ${corpus.id}`))],
    ],
  }));
  return h("div", { class: "card" }, table("Texts", ["Id", "Size", "Form", "Uploaded", "Next"], rows, "words"));
}

async function remove(corpus) {
  if (!confirm(`Delete ${corpus.id} (${bytes(corpus.size)})? Jobs that have ended keep their reports.`)) return;
  try {
    await send(`/v1/corpora/${corpus.id}`, { method: "DELETE" });
    calm();
    announce("Deleted");
  } catch (error) {
    complain(error);
  }
  again();
}

const form = find("upload");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = form.querySelector(".upload-state");
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  place.replaceChildren(bar);
  try {
    const corpus = await upload(form.elements.file.files[0], form.elements.field.value.trim(), (done) => { bar.value = done; bar.textContent = percent(done); });
    place.replaceChildren(h("div", { class: "notice good" }, "Stored as ", h("code", {}, corpus.id), ". ", h("a", { href: `/new?corpus=${corpus.id}` }, "Start a job with it")));
    form.reset();
  } catch (error) {
    complain(error, place);
  }
  again();
});

const again = keepAsking(look, complain);
