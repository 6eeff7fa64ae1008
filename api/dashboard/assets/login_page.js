import { find } from "./dom.js";
import { get, post } from "./http.js";

const form = find("sign-in");
const key = find("key");

// Only to a page of our own, whatever the address says.
function goOn() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  location.replace(next.origin === location.origin ? next.pathname + next.search : "/");
}

function refuse(message) {
  find("e-key").textContent = message;
  key.setAttribute("aria-invalid", "true");
  key.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!key.value.trim()) return refuse("Paste a key first.");
  try {
    await post("/session", { key: key.value.trim() });
    goOn();
  } catch (error) {
    refuse(error.message);
  }
});

get("/session").then((session) => { if (session.owner) goOn(); }, () => {});
