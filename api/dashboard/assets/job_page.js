import { announce, calm, command, complain, facts, fill, find, h, table } from "./dom.js";
import { bytes, capital, change, count, number, percent, seconds, share, time } from "./format.js";
import { get, post } from "./http.js";
import { FINAL, PHASES, doing, left, pill, progress } from "./job_view.js";
import { keepAsking, listen } from "./live.js";
import { draw } from "./plots.js";

const id = find("job").dataset.job;
const here = `/v1/jobs/${encodeURIComponent(id)}`;
let current = null; // the job as last told
let heard = 0; // the number of the last event
let lost = []; // events of shards that their workers did not bring to an end
let measured = null; // the report and what belongs to it, fetched once the job has ended

async function look() {
  current = await get(here);
  if (current.options.shards > 1) lost = (await get(`${here}/events?limit=1000`)).data.filter((event) => event.type === "shard");
  calm();
  await show(current);
  return !FINAL.has(current.status);
}

// Between the numbered events only these figures move.
function move(figures) {
  if (!current || FINAL.has(current.status)) return;
  current = { ...current, ...figures };
  show(current).catch(complain);
}

async function show(job) {
  document.title = `${job.model.id}: ${job.status} – Headroom`;
  fill(find("title"), [job.model.id, job.status], () => title(job));
  fill(find("state"), [job.status, job.phase, job.progress, job.phase_seconds, job.error, job.result, job.attempt, left(job)], () => state(job));
  fill(find("asked"), [job.status, job.attempts, lost], () => asked(job));
  announce(FINAL.has(job.status) ? `The job has ${job.status}` : `${capital(job.status)}${job.phase ? `, ${job.phase}, ${Math.floor(job.progress * 10) * 10} percent` : ""}`);
  if (!FINAL.has(job.status) || measured) return;
  const [report, figures, files] = job.result ? await Promise.all([get(`${here}/report`), get(`${here}/figures`), get(`${here}/files`)]) : [null, {}, { data: [] }];
  measured = { report, figures, files };
  fill(find("measured"), job.result, () => (report ? tiles(job, report) : []));
  showFigures(report, figures);
  fill(find("sizes"), report?.bytes ?? null, sizes);
  fill(find("bands"), report?.bands ?? null, bands);
  fill(find("files"), files.data, (found) => (found.length ? published(job, found) : []));
}

function title(job) {
  const actions = [
    job.result && h("a", { class: "button", href: `${here}/report`, target: "_blank", rel: "noopener" }, "Full report"),
    h("a", { class: "button", href: `/new?from=${encodeURIComponent(id)}` }, FINAL.has(job.status) ? "Run again…" : "Another like it…"),
    ["queued", "running"].includes(job.status) && h("button", { class: "button danger", onclick: () => find("cancel-dialog").showModal() }, "Cancel"),
  ];
  return [h("h1", {}, job.model.id), pill(job.status), h("div", { class: "actions" }, actions)];
}

function state(job) {
  if (job.status === "failed") return h("div", { class: "notice bad" }, h("p", {}, h("strong", {}, `Failed${job.error.phase ? ` while ${job.error.phase}` : ""}`)), h("p", {}, capital(job.error.message)), h("p", { class: "dim" }, "Code ", h("code", {}, job.error.code)));
  if (job.status === "canceled") return h("div", { class: "notice" }, h("p", {}, h("strong", {}, "Canceled"), " It stored no files."));
  if (job.status === "rejected") return rejected(job);
  if (job.status === "succeeded") return succeeded(job);
  const tries = job.attempt > 1 ? `attempt ${job.attempt}` : null;
  return h("div", { class: "card" },
    h("p", {}, h("strong", {}, capital(doing(job))), " ", h("span", { class: "dim" }, [left(job), tries].filter(Boolean).join(", "))),
    progress(job),
    h("ol", { class: "phases", "aria-label": "Phases" }, PHASES[job.kind].map((phase) => step(job, phase))));
}

function step(job, phase) {
  const spent = job.phase_seconds[phase];
  const now = job.phase === phase && spent === undefined;
  return h("li", { class: spent !== undefined ? "done" : now ? "now" : null, "aria-current": now ? "step" : null }, capital(phase), h("span", {}, spent !== undefined ? seconds(spent) : now ? "now" : ""));
}

function rejected(job) {
  const result = job.result ?? {};
  if (result.rejected_for === "not_worth_it") return h("div", { class: "notice warn" }, h("p", {}, h("strong", {}, "Not worth storing. "), result.refusals?.[0]));
  const best = result.largest_passing_ratio;
  const text = job.kind !== "compress" ? null : best
    ? h("p", {}, "The largest ratio that would have passed is ", h("strong", {}, percent(best)), ".")
    : h("p", {}, "No ratio that was measured would have passed: allow more drift, or send more text, which narrows the interval.");
  const retry = best && h("p", {}, h("a", { class: "button primary", href: `/new?from=${encodeURIComponent(id)}&ratio=${best}` }, `Try again with ${percent(best)}`));
  const what = job.kind === "compress" ? `With ${columns(result)}, the predictions moved too far, so nothing was stored.` : "The predictions moved too far, so nothing was stored.";
  return h("div", { class: "notice warn" }, h("p", {}, h("strong", {}, "Rejected by the drift gate. "), what), h("ul", {}, (result.refusals ?? []).map((reason) => h("li", {}, reason))), text, retry);
}

function columns(result) {
  if (result.kept_columns === result.hidden_size) {
    const reads = result.head_bytes_after ? `, and the head reads ${number(result.head_bytes_after / result.head_bytes_before)} of its bytes` : "";
    return `all ${result.hidden_size} columns kept${reads}`;
  }
  return `${percent(1 - result.kept_columns / result.hidden_size)} of the head's columns removed, ${result.kept_columns} of ${result.hidden_size} kept`;
}

function succeeded(job) {
  const result = job.result;
  const took = job.started && job.finished ? ` It took ${seconds((Date.parse(job.finished) - Date.parse(job.started)) / 1000)}.` : "";
  const words = {
    compress: () => `${capital(columns(result))}. Perplexity ${percent(result.perplexity_drift, true)} (95 %: ${percent(result.perplexity_drift_low, true)} to ${percent(result.perplexity_drift_high, true)}), inside the budget of ${bounds(job.drift)}. The most probable token stays the same at ${percent(result.top1_agreement)} of positions.`,
    compare: () => `Perplexity of the second model ${percent(result.perplexity_drift, true)} against the first (95 %: ${percent(result.perplexity_drift_low, true)} to ${percent(result.perplexity_drift_high, true)}).`,
    steer: () => `${result.tokens.length} tokens steered; KL divergence ${number(result.kl_mean)} nats a token.`,
  };
  return h("div", { class: "notice good" }, h("p", {}, h("strong", {}, "Succeeded. "), (words[job.kind] ?? (() => "Everything was measured."))(), took));
}

function bounds(drift) {
  const found = [];
  if (drift.perplexity) found.push(percent(drift.perplexity));
  if (drift.kl) found.push(`KL ${number(drift.kl)}`);
  if (drift.top1) found.push(`${percent(drift.top1)} the same top token`);
  if (drift.rare_perplexity) found.push(`${percent(drift.rare_perplexity)} on rare tokens`);
  return found.join(", ") || "nothing";
}

const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));

function tiles(job, report) {
  const result = job.result;
  const found = [];
  if (result.perplexity_drift !== undefined) found.push(tile("Perplexity", percent(result.perplexity_drift, true), `${number(result.perplexity_before, 5)} → ${number(result.perplexity_after, 5)}`));
  if (result.kl_mean !== undefined) found.push(tile("KL divergence", number(result.kl_mean), "nats a token"));
  if (result.top1_agreement !== undefined) found.push(tile("Same top token", percent(result.top1_agreement), "of positions"));
  if (result.head_bytes_after) found.push(tile("Output head", change(result.head_bytes_before, result.head_bytes_after), `${bytes(result.head_bytes_before)} → ${bytes(result.head_bytes_after)}`));
  if (result.checkpoint_bytes_after) found.push(tile("Checkpoint", change(result.checkpoint_bytes_before, result.checkpoint_bytes_after), `${bytes(result.checkpoint_bytes_before)} → ${bytes(result.checkpoint_bytes_after)}`));
  for (const [name, key] of [["R²", "r2"], ["R², held-out rows", "r2_held_out"], ["Spearman", "spearman"], ["Log error", "log_error_rms"], ["Loss", "loss"]]) if (typeof result[key] === "number") found.push(tile(name, number(result[key], 4)));
  const remarks = [...(report.warnings ?? []), ...(report.advice && job.status === "succeeded" ? [report.advice] : [])];
  return [h("dl", { class: "tiles" }, found), remarks.length > 0 && h("div", { class: "notice" }, h("p", {}, h("strong", {}, "Worth knowing")), h("ul", {}, remarks.map((text) => h("li", {}, capital(text)))))];
}

const CAPTIONS = {
  drift: ["Drift curve", "KL divergence against the share of columns removed, with the budget and the chosen point. The table below holds the figures."],
  perplexity: ["Growth of perplexity", "Growth of perplexity against the share of columns removed, around zero, with the budget and the chosen point."],
  slopes: ["How token probability is encoded", "Sorted magnitudes of the slopes, and the R² that the largest reach together."],
  components: ["Principal components of the head", "Slopes of the principal components, and the share of the variance that each explains."],
  fitted: ["Fitted against true", "Fitted against true negative log averaged probability of a sample of tokens."],
  dynamics: ["Over training", "Spearman and R² of token frequency on the head, and the loss, at every checkpoint."],
  steering: ["Multipliers", "Multipliers wanted and obtained."],
};

function showFigures(report, figures) {
  const names = Object.keys(figures).filter((name) => name !== "bytes" && (["drift", "perplexity"].includes(name) || !figures.drift));
  const places = names.map((name) => {
    const [heading, caption] = CAPTIONS[name] ?? [capital(name), capital(name)];
    const place = h("div", { class: "plot", role: "img", "aria-label": caption });
    return { name, place, card: h("div", { class: "card" }, h("h2", {}, heading), place, name === "drift" && curveTable(report)) };
  });
  find("curve").replaceChildren(...places.map(({ card }) => card));
  for (const { name, place } of places) draw(place, figures[name]).catch((error) => complain(error));
}

function curveTable(report) {
  const { planes, selected } = report;
  const stored = planes?.bits ?? null;  // null: the job chose, or asked for, a size of the curve
  const figures = (point) => [number(point.perplexity, 5), percent(point.perplexity_drift, true), percent(point.perplexity_drift_high, true), number(point.kl_mean), share(point.top1_agreement)];
  const sliced = report.curve.map((point) => ({
    chosen: stored === null && point.kept_columns === selected.kept_columns,
    cells: [share(point.ratio), count(point.kept_columns), ...figures(point)],
  }));
  const read = (planes?.curve ?? []).map((point) => ({
    chosen: point.bits === stored && point.rescored === planes.rescored,
    cells: [`planes, ${point.bits} bits`, point.bits === 8 ? "all" : `all, ${count(point.rescored)} rows rescored`, ...figures(point)],
  }));
  return h("details", {}, h("summary", {}, "The curve as a table"), table("Drift at each ratio", ["Removed", "Kept columns", "Perplexity", "Drift", "At most (95 %)", "KL, nats", "Same top token"], [...sliced, ...read]));
}

function sizes(found) {
  if (!found || !found.head_after) return [];
  const names = [["head", "Output head"], ["decode_read", "Read for each token"], ["checkpoint", "Checkpoint"]];
  const largest = Math.max(...names.flatMap(([key]) => [found[`${key}_before`], found[`${key}_after`]]));
  const bar = (value, className, text) => {
    const fill = h("div", { class: "fill" });
    fill.style.width = `${(60 * value) / largest}%`;
    return h("div", { class: `track ${className}` }, fill, text);
  };
  return h("div", { class: "card" }, h("h2", {}, "Bytes before and after"),
    h("div", { class: "bars" }, names.map(([key, name]) => {
      const before = found[`${key}_before`];
      const after = found[`${key}_after`];
      return [h("div", {}, name), h("div", { class: "pair" }, bar(before, "before", `${bytes(before)} before`), bar(after, "after", `${bytes(after)} after (${change(before, after)})`))];
    })));
}

function bands(found) {
  if (!found?.length) return [];
  const rows = found.map((band) => ({ cells: [band.band, count(band.positions), percent(band.perplexity_drift, true), number(band.kl_mean), share(band.top1_agreement)] }));
  return h("div", { class: "card" }, h("h2", {}, "By frequency of the token"), h("p", { class: "dim" }, "Removed columns hurt rare tokens first: look at the last row before you ship."), table("Drift by frequency of the token", ["Tokens", "Positions", "Drift", "KL, nats", "Same top token"], rows));
}

function published(job, files) {
  const stored = new Map(files.map((file) => [`${file.path.split("/").at(-1)} ${file.sha256}`, file.size])); // the same file is kept once
  const total = [...stored.values()].reduce((sum, size) => sum + size, 0);
  const rows = (shown) => shown.map((file) => ({ cells: [h("a", { href: `${here}/files/${file.path.split("/").map(encodeURIComponent).join("/")}`, download: file.path.split("/").at(-1) }, file.path), bytes(file.size), h("code", { title: file.sha256 }, `${file.sha256.slice(0, 12)}…`)] }));
  const repository = job.links.hub;
  const origin = location.origin;
  const first = files.find((file) => file.path.endsWith(".safetensors")) ?? files[0];
  return h("div", { class: "card" },
    h("h2", {}, "Files"), h("p", { class: "dim" }, `${files.length} files, ${bytes(total)}`, repository && [", in the hub as ", h("code", {}, repository)]),
    table("Files", ["File", "Size", "sha256"], rows(files.filter((file) => !isFurther(file)))),
    files.some(isFurther) && h("details", {}, h("summary", {}, "Files of further revisions"), table("Files of further revisions", ["File", "Size", "sha256"], rows(files.filter(isFurther)))),
    repository && revisions(job.result?.revisions ?? [], repository, origin),
    h("h3", {}, "Get them"),
    repository && command(`HF_ENDPOINT=${origin}/hub hf download ${repository}`, "With the Hugging Face client"),
    command(`headroom download ${job.id} --output slim --server ${origin}`, "With the headroom command, which verifies every hash"),
    command(`curl --fail --location --remote-name --continue-at - ${origin}${here}/files/${first.path}`, "One file with curl"),
    repository && job.kind === "compress" && [h("h3", {}, "Use it"), command(`import headroom  # registers the format\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained("slim")\ntokenizer = AutoTokenizer.from_pretrained("slim")`, "In Python, after the download")]);
}

const isFurther = (file) => file.path.startsWith("revisions/");

function revisions(points, repository, origin) {
  if (!points.length) return null;
  const rows = points.map((point) => ({ cells: [h("code", {}, point.name), count(point.kept_columns), percent(point.ratio), percent(point.perplexity_drift, true), point.passes ? "inside the budget" : h("strong", {}, "outside the budget")] }));
  return [h("h3", {}, "Further revisions"), table("Further revisions", ["Revision", "Columns", "Removed", "Drift", "Verdict"], rows, "words"),
    command(`HF_ENDPOINT=${origin}/hub hf download ${repository} --revision ${points[0].name}`, "One of them, with the Hugging Face client")];
}

function asked(job) {
  const { kind, model, corpus, options, labels } = job;
  const rest = Object.fromEntries(["ratio", "method", "drift", "ratios", "evaluation", "publish", "tokens", "edit", "few_examples", "max_kl", "other", "checkpoints"].filter((name) => name in job).map((name) => [name, job[name]]));
  const rows = job.attempts.map((attempt) => ({ cells: [count(attempt.attempt), h("code", {}, attempt.worker), time(attempt.started), attempt.finished ? seconds((Date.parse(attempt.finished) - Date.parse(attempt.started)) / 1000) : "–", attempt.outcome || "running"] }));
  return h("div", { class: "card" }, h("h2", {}, "What was asked for"),
    facts([["Kind", kind], ["Model", model.revision ? `${model.id} at ${model.revision}` : model.id], ["Text", h("code", {}, corpus)], ["Created", time(job.created)], ["Finished", job.finished && time(job.finished)], ["Labels", Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(", ")]]),
    rows.length > 0 && [h("h3", {}, "Attempts"), table("Attempts", ["Attempt", "Worker", "Started", "Took", "Outcome"], rows, "words")],
    lost.length > 0 && [h("h3", {}, "Lost shards"), table("Lost shards", ["Shard", "Step", "Worker", "When", "Why"], lost.map(lostShard), "words")],
    h("details", {}, h("summary", {}, "The whole request"), command(JSON.stringify({ kind, model, corpus, ...rest, options, labels }, null, 2), "JSON")));
}

function lostShard({ time: when, data }) {
  return { cells: [`${data.shard} of ${data.shards}`, data.operation, h("code", {}, data.worker), time(when), `${data.why}: ${data.message}`] };
}

function hear(event) {
  heard = event.number;
  again();
}

const stream = listen(() => (current && FINAL.has(current.status) ? null : `${here}/events?after=${heard}`), { progress: move, status: hear, phase: hear, attempt: hear, shard: hear });
const again = keepAsking(look, complain, stream.isOpen);
find("cancel-dialog").addEventListener("close", async () => {
  if (find("cancel-dialog").returnValue !== "cancel") return;
  find("cancel-dialog").returnValue = "";
  try {
    await post(`${here}/cancel`);
    await again();
  } catch (error) {
    complain(error);
  }
});
