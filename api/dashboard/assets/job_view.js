// What several pages say of a job.

import { h } from "./dom.js";
import { capital, percent, seconds } from "./format.js";

export const FINAL = new Set(["succeeded", "rejected", "failed", "canceled"]);

// As PHASES in service/records/job.py: what each kind goes through.
const ALL = ["fetching", "encoding", "analyzing", "sweeping", "slicing", "validating", "publishing"];
export const PHASES = { compress: ALL, steer: ALL, compare: ["fetching", "encoding", "sweeping"], analyze: ["fetching", "encoding", "analyzing"], dynamics: ["fetching", "encoding"] };

export function pill(status) {
  return h("span", { class: `pill ${status}` }, capital(status));
}

export function doing(job) {
  if (job.status === "queued") return "waiting for a worker";
  if (job.status === "canceling") return "stopping";
  return job.phase ? `${job.phase}, ${percent(Math.floor(job.progress * 100) / 100)}` : "starting";
}

export function progress(job) {
  return h("progress", { max: "1", value: String(job.progress), "aria-label": "Progress of the job" }, percent(job.progress));
}

export function left(job) {
  if (!job.estimated_finish || FINAL.has(job.status)) return null;
  const rest = (Date.parse(job.estimated_finish) - Date.now()) / 1000;
  return rest > 0 ? `about ${seconds(rest)} left` : "nearly done";
}

export const jobPath = (id) => `/jobs/${encodeURIComponent(id)}`;
