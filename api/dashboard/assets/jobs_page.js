import { announce, calm, command, complain, fill, find, h } from "./dom.js";
import { ago, bytes, capital, change, percent } from "./format.js";
import { get } from "./http.js";
import { FINAL, doing, jobPath, left, pill, progress } from "./job_view.js";
import { keepAsking, listen } from "./live.js";

const PAGE = 25;
const filters = find("filters");
const list = find("jobs");
let wanted = PAGE;
let state = { jobs: [], more: false };
const told = new Map(); // id -> status, to announce what has ended

function query() {
  const form = new FormData(filters);
  const asked = new URLSearchParams();
  for (const name of ["status", "kind", "model"]) if (form.get(name).trim()) asked.set(name, form.get(name).trim());
  const [key, value] = form.get("label").split(/=(.*)/s);
  if (key.trim() && value !== undefined) asked.set(`labels[${key.trim()}]`, value.trim());
  return asked;
}

function readAddress() {
  const asked = new URLSearchParams(location.search);
  for (const name of ["status", "kind", "model", "label"]) filters.elements[name].value = asked.get(name) ?? "";
}

function writeAddress() {
  const form = [...new FormData(filters)].filter(([, value]) => value);
  history.replaceState(null, "", form.length ? `?${new URLSearchParams(form)}` : location.pathname);
}

async function load() {
  const jobs = [];
  let more = true;
  while (more && jobs.length < wanted) {
    const asked = query();
    asked.set("limit", String(Math.min(wanted - jobs.length, 100)));
    if (jobs.length) asked.set("after", jobs.at(-1).id);
    const page = await get(`/v1/jobs?${asked}`);
    jobs.push(...page.data);
    more = page.has_more && page.data.length > 0;
  }
  return { jobs, more };
}

async function look() {
  state = await load();
  calm();
  return showAll();
}

function matches(job) {
  return [...query()].every(([name, value]) => {
    const label = /^labels\[(.*)\]$/.exec(name);
    return (label ? job.labels[label[1]] : name === "model" ? job.model.id : job[name]) === value;
  });
}

// A job as the stream tells it: new, changed, or no longer one that is asked for.
function take(job) {
  const others = state.jobs.filter((one) => one.id !== job.id);
  const known = others.length < state.jobs.length;
  if (matches(job) && (known || !others.length || job.created >= others.at(-1).created)) others.push(job);
  state.jobs = others.sort((one, other) => (one.created < other.created ? 1 : -1));
  showAll();
}

function showAll() {
  const { jobs, more } = state;
  show(jobs);
  find("more").hidden = !more;
  fill(find("empty"), jobs.length ? "" : [...query()].length ? "filtered" : "none", empty);
  const active = jobs.filter((job) => !FINAL.has(job.status)).length;
  find("following").textContent = jobs.length ? `${active ? `${active} in progress` : "None in progress"}, newest first` : "";
  return active > 0;
}

function show(jobs) {
  const rows = new Map([...list.children].map((row) => [row.dataset.job, row]));
  jobs.forEach((job, index) => {
    const row = rows.get(job.id) ?? newRow(job);
    rows.delete(job.id);
    fill(row.querySelector(".doing"), [job.status, job.phase, job.progress, job.estimated_finish], () => doingNow(job));
    fill(row.querySelector(".figures"), [job.status, job.result, job.error], () => figures(job));
    row.querySelector(".when").textContent = ago(job.created);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    if (FINAL.has(job.status) && told.has(job.id) && told.get(job.id) !== job.status) announce(`${job.model.id}: ${job.status}`);
    told.set(job.id, job.status);
  });
  for (const row of rows.values()) row.remove();
}

function newRow(job) {
  const labels = Object.entries(job.labels).map(([key, value]) => h("span", { class: "label" }, `${key}=${value}`));
  const asked = job.kind === "compress" ? `, ${job.ratio === "auto" ? "as much as passes" : `ratio ${percent(job.ratio)}`}` : "";
  return h("li", { "data-job": job.id },
    h("div", {}, h("a", { class: "name", href: jobPath(job.id) }, job.model.id), h("div", { class: "sub" }, h("span", {}, `${capital(job.kind)}${asked}`), labels)),
    h("div", { class: "doing" }), h("div", { class: "figures sub" }),
    h("time", { class: "when", datetime: job.created, title: job.created }));
}

function doingNow(job) {
  if (FINAL.has(job.status)) return h("div", {}, pill(job.status));
  return [h("div", {}, pill(job.status), h("span", { class: "dim" }, [doing(job), left(job)].filter(Boolean).join(", "))), job.status === "queued" ? null : progress(job)];
}

function figures(job) {
  const result = job.result;
  if (job.status === "failed") return h("span", {}, job.error.message);
  if (job.status === "rejected") return h("span", {}, result?.refusals?.[0] ?? "The drift is over its budget.");
  if (!result || job.status !== "succeeded") return null;
  const parts = [];
  if (result.perplexity_drift !== undefined) parts.push(["perplexity ", h("b", {}, percent(result.perplexity_drift, true))]);
  if (job.kind === "compress") parts.push([`head ${bytes(result.head_bytes_before)} → `, h("b", {}, bytes(result.head_bytes_after)), ` (${change(result.head_bytes_before, result.head_bytes_after)})`]);
  if (result.spearman !== undefined) parts.push(["Spearman ", h("b", {}, result.spearman?.toFixed(3) ?? "–")]);
  if (job.kind === "steer") parts.push([`${result.tokens.length} tokens steered`]);
  return parts.map((part, index) => h("span", {}, part, index < parts.length - 1 ? "," : ""));
}

function empty(kind) {
  if (!kind) return [];
  if (kind === "filtered") return h("div", { class: "card empty" }, h("h2", {}, "No job matches these filters"), h("p", { class: "dim" }, "Clear one of them, or look at the oldest jobs."));
  return h("div", { class: "card empty" },
    h("h2", {}, "No jobs yet"),
    h("p", { class: "dim" }, "Post the first here, or from a terminal."),
    h("p", {}, h("a", { class: "button primary", href: "/new" }, "New job")),
    command(`headroom compress namespace/model --corpus text.jsonl --output slim --server ${location.origin}`));
}

readAddress();
const stream = listen(() => `/v1/events?${new URLSearchParams([...query(), ["limit", "1"]])}`, { job: take });
const again = keepAsking(look, complain, stream.isOpen);
function restart() {
  writeAddress();
  stream.restart();
  again();
}
let typing = null;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { wanted = PAGE; restart(); }, 250);
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(restart));
find("more").addEventListener("click", () => { wanted += PAGE; again(); });
