// Figures as people read them. null, "not measured", is a dash.

const DASH = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

// Three digits that matter, never 1e-5: 0.0123 -> 1.23 %
export function percent(fraction, signed = false) {
  if (!known(fraction)) return DASH;
  const value = 100 * fraction;
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 ? 2 : 4;
  const text = Math.abs(value).toLocaleString("en", { maximumFractionDigits: digits });
  const sign = text === "0" ? "" : value < 0 ? "−" : signed ? "+" : "";
  return `${sign}${text} %`;
}

// Of shares in one column: always one digit.
export function share(fraction) {
  return known(fraction) ? `${(100 * fraction).toFixed(1)} %` : DASH;
}

export function number(value, digits = 3) {
  return known(value) ? value.toLocaleString("en", { maximumSignificantDigits: digits }) : DASH;
}

export function count(value) {
  return known(value) ? Math.round(value).toLocaleString("en") : DASH;
}

export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, value < 1000 ? 0 : Math.floor(Math.log10(value) / 3));
  return `${(value / 1000 ** power).toLocaleString("en", { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

export function seconds(value) {
  if (!known(value)) return DASH;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function ago(text, now = Date.now()) {
  const past = (now - Date.parse(text)) / 1000;
  if (past < 45) return "just now";
  if (past < 5400) return `${Math.max(1, Math.round(past / 60))} min ago`;
  if (past < 129600) return `${Math.round(past / 3600)} h ago`;
  return new Date(text).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

export function time(text) {
  return new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "medium" });
}

// Relative drift of bytes: 3 MB -> 1 MB is "−67 %"
export function change(before, after) {
  return known(before) && known(after) && before > 0 ? percent(after / before - 1, true) : DASH;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
