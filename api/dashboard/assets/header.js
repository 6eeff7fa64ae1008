// Of every page: whether the parts of the service answer, and who is signed in.

import { fill, find, h } from "./dom.js";
import { bytes, capital } from "./format.js";
import { get, send } from "./http.js";
import { keepAsking } from "./live.js";

const readiness = async () => {
  const response = await fetch("/readyz").catch(() => null);
  return response ? response.json().catch(() => null) : null;
};

function detail(name, check) {
  const free = /^(\d+) bytes free$/.exec(check.detail);
  return name === "disk" && free ? `${bytes(Number(free[1]))} free` : check.detail;
}

async function look() {
  const state = await readiness();
  const failing = state?.checks ? Object.entries(state.checks).filter(([, check]) => !check.ok).map(([name]) => name) : ["server"];
  const words = failing.length === 0 ? "All parts answer" : `No ${failing.join(", ")}`;
  find("health-text").textContent = words;
  document.querySelector("#health .dot").className = `dot ${failing.length ? "bad" : "good"}`;
  fill(find("health-checks"), state?.checks ?? null, (checks) => !checks
    ? h("p", {}, "The server does not answer.")
    : h("dl", { class: "facts" }, Object.entries(checks).map(([name, check]) => [h("dt", {}, `${check.ok ? "✓" : "✗"} ${capital(name)}`), h("dd", {}, detail(name, check))])));
}

keepAsking(look);

async function signOut() {
  await send("/session", { method: "DELETE" });
  location.assign("/login");
}

get("/session").then((session) => {
  if (session.open || !session.owner) return;
  find("session").replaceChildren(h("span", { title: `May: ${session.scopes.join(", ")}` }, session.owner), h("button", { class: "button small", onclick: signOut }, "Sign out"));
}, () => {});

// A sheet closes with Escape and with a click beside it, as a menu does.
const health = find("health");
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && health.open) {
    health.open = false;
    health.querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  if (!health.contains(event.target)) health.open = false;
});
