// From the fields of the form to the body of POST /v1/jobs and back. Left-out fields mean the service's defaults.

const WHOLE = new Set(["options.window", "options.seed", "options.calibration_tokens", "options.evaluation_tokens", "options.continuations", "options.shards"]);
const NUMBERS = new Set(["drift.kl", "max_kl"]);
const PERCENTS = new Set(["drift.perplexity", "drift.top1", "drift.rare_perplexity", "drift.group_gap", "ratio"]);
const UNBOUNDED = new Set(["drift.perplexity", "drift.kl"]); // have a default: an empty field says that there is no bound
const DEFAULTS = { "options.head_dtype": "source", "options.repair": "mean", "options.tied": "keep", method: "probability", kind: "compress" };
const APART = new Set(["amount", "source", "corpus", "corpus.text", "file", "field", "do", "labels", "tokens", "checkpoints", "other", "model", "model.revision", "options.export", "options.keep_removed", "options.compare", "options.publish_ratios", "webhook.secret"]);
const EVALUATION = /^evaluation\.(\d+)\.(.+)$/;

// A mistake in one field, in words.
export class FieldMistake extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

// entries: those of the form's enabled controls. corpus: an id, {text}, or null where it is not known yet.
export function bodyOf(entries, corpus) {
  const values = Object.fromEntries(entries);
  const body = { kind: values.kind, model: modelOf(values.model ?? "", values["model.revision"] ?? ""), corpus };
  if (values.kind === "compress") body.ratio = values.amount === "auto" ? "auto" : fraction(values.ratio);
  for (const [name, value] of entries) {
    if (UNBOUNDED.has(name) && value === "") place(body, name, null);
    if (APART.has(name) || EVALUATION.test(name) || name === "kind" || name === "ratio" || value === "" || value === DEFAULTS[name]) continue;
    place(body, name, PERCENTS.has(name) ? fraction(value) : WHOLE.has(name) || NUMBERS.has(name) ? Number(value) : value);
  }
  const exported = entries.filter(([name]) => name === "options.export").map(([, value]) => value);
  if (exported.length) place(body, "options.export", exported);
  if (values.kind === "compress") {
    const compared = entries.filter(([name]) => name === "options.compare").map(([, value]) => value);
    if (compared.length) place(body, "options.compare", compared);
    const evaluation = evaluationOf(entries);
    if (evaluation.length) body.evaluation = evaluation;
    if (values["options.publish_ratios"]?.trim()) place(body, "options.publish_ratios", ratiosOf(values["options.publish_ratios"]));
  }
  if (values["webhook.url"] && values["webhook.secret"]) place(body, "webhook.secret", values["webhook.secret"].trim());
  if ("options.keep_removed" in values) place(body, "options.keep_removed", true);
  if (values.other !== undefined) body.other = values.other.trim();
  if (values.checkpoints !== undefined) body.checkpoints = lines(values.checkpoints).map((line) => modelOf(...line.split("@")));
  if (values.tokens !== undefined) body.tokens = lines(values.tokens).map(tokenOf);
  if (values.labels) body.labels = labelsOf(values.labels);
  return body;
}

const fraction = (text) => Number((Number(text) / 100).toPrecision(12));
const lines = (text) => text.split("\n").filter((line) => line.trim());

function modelOf(id, revision = "") {
  return revision.trim() ? { id: id.trim(), revision: revision.trim() } : id.trim();
}

function place(body, path, value) {
  const names = path.split(".");
  const last = names.pop();
  let here = body;
  for (const name of names) here = here[name] ??= {};
  here[last] = value;
}

function tokenOf(line) {
  const match = /^\s*(?:"((?:[^"\\]|\\.)*)"|#(\d+)|(\S+))\s+(\S+)\s*$/.exec(line);
  const multiplier = match ? Number(match[4]) : NaN;
  if (!(multiplier > 0)) throw new FieldMistake("tokens", `“${line.trim()}” is not a token and a factor; write " hello" 5 or #123 0.1.`);
  if (match[2] !== undefined) return { id: Number(match[2]), multiplier };
  return { text: match[3] ?? JSON.parse(`"${match[1]}"`), multiplier };
}

function evaluationOf(entries) {
  const texts = [];
  for (const [name, value] of entries) {
    const match = EVALUATION.exec(name);
    if (match && value !== "") place((texts[match[1]] ??= {}), match[2], match[2] === "drift.perplexity" ? fraction(value) : value.trim());
  }
  return texts;
}

function ratiosOf(text) {
  return text.split(",").filter((part) => part.trim()).map((part) => {
    const ratio = fraction(part);
    if (!(ratio > 0 && ratio < 1)) throw new FieldMistake("options.publish_ratios", `“${part.trim()}” is not a share between 0 and 100 %.`);
    return ratio;
  });
}

function labelsOf(text) {
  const found = {};
  for (const part of text.split(",").map((one) => one.trim()).filter(Boolean)) {
    const [key, value] = part.split(/=(.*)/s);
    if (!key || value === undefined) throw new FieldMistake("labels", `“${part}” is not of the form key=value.`);
    found[key.trim()] = value.trim();
  }
  return found;
}

// The fields of a job that was posted before, by name of the control.
export function fieldsOf(job) {
  const reference = (model) => (model.revision ? `${model.id}@${model.revision}` : model.id);
  const shown = (fraction) => String(Number((100 * fraction).toPrecision(10)));
  const found = { kind: job.kind, model: job.model.id, "model.revision": job.model.revision ?? "", corpus: job.corpus, labels: Object.entries(job.labels).map(([key, value]) => `${key}=${value}`).join(", ") };
  if (job.kind === "compress") {
    found.amount = job.ratio === "auto" ? "auto" : "fixed";
    if (job.ratio !== "auto") found.ratio = shown(job.ratio);
    found.method = job.method;
  }
  if (job.drift) found["drift.kl"] = job.drift.kl ?? "";
  for (const name of ["perplexity", "top1", "rare_perplexity", "group_gap"]) if (job.drift) found[`drift.${name}`] = job.drift[name] ? shown(job.drift[name]) : "";
  if (job.evaluation) found.evaluation = job.evaluation.map((one) => ({ name: one.name, corpus: one.corpus, "drift.perplexity": one.drift?.perplexity ? shown(one.drift.perplexity) : "" }));
  if (job.webhook) found["webhook.url"] = job.webhook.url;
  if (job.other) found.other = job.other.id;
  if (job.checkpoints) found.checkpoints = job.checkpoints.map(reference).join("\n");
  if (job.tokens) found.tokens = job.tokens.map((token) => `${token.id === null ? JSON.stringify(token.text) : `#${token.id}`} ${token.multiplier}`).join("\n");
  if (job.max_kl) found.max_kl = job.max_kl;
  if (job.publish) found["publish.repo"] = job.publish.repo;
  for (const [name, value] of Object.entries(job.options)) found[`options.${name}`] = value;
  if (job.options.publish_ratios) found["options.publish_ratios"] = job.options.publish_ratios.map(shown).join(", ");
  return found;
}
