// The API as pages use it. Every failure is a Problem with the sentence that the server gave.

export class Problem extends Error {
  constructor({ title, detail, code, status, errors }) {
    super(detail || title);
    Object.assign(this, { title, code, status, errors: errors ?? [] });
  }
}

const UNREACHABLE = { title: "The server does not answer", detail: "Is it still running, and is your network up? This page tries again.", code: "unreachable" };

// Without a session the page can show nothing: sign in, and come back.
function signIn() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

export async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(UNREACHABLE);
  }
  if (response.ok) return response;
  if (response.status === 401 && location.pathname !== "/login") signIn();
  const body = await response.json().catch(() => ({}));
  throw new Problem({ title: `The server answered ${response.status}`, detail: "", code: "http_error", status: response.status, ...body });
}

export async function get(path, options) {
  return (await send(path, options)).json();
}

export async function post(path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  return (await send(path, { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) })).json();
}

// XMLHttpRequest, since fetch tells of no progress of what it sends.
export function upload(file, field, onProgress) {
  const ending = (name) => file.name.toLowerCase().endsWith(name);
  const encoding = ending(".gz") ? "gzip" : ending(".zst") ? "zstd" : null;
  const isLines = /\.(jsonl|ndjson)(\.gz|\.zst)?$/i.test(file.name);
  const request = new XMLHttpRequest();
  request.open("POST", `/v1/corpora${isLines && field ? `?field=${encodeURIComponent(field)}` : ""}`);
  request.setRequestHeader("Content-Type", isLines ? "application/jsonl" : "text/plain");
  if (encoding) request.setRequestHeader("Content-Encoding", encoding);
  request.responseType = "json";
  return new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Problem(UNREACHABLE));
    request.onload = () => (request.status < 400 ? resolve(request.response) : reject(new Problem(request.response ?? { title: `The server answered ${request.status}`, status: request.status })));
    request.send(file);
  });
}
