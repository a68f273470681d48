// Numbers and times as people read them: ages in words, absolute times in the viewer's own zone.

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export const $ = (id) => document.getElementById(id);
export const ms = (stamp) => (stamp ? Date.parse(stamp) : NaN);

/** The time of day; with the date when it was another day. */
export function clock(at) {
  if (!Number.isFinite(at)) return "–";
  const today = new Date(at).toDateString() === new Date().toDateString();
  return (today ? time : day).format(at);
}

export const absolute = (at) => (Number.isFinite(at) ? whole.format(at) : "");

/** Seconds in words, two units at most: `2 min 5 s`. */
export function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  const two = (n, unit, rest, small) => (rest ? `${n} ${unit} ${rest} ${small}` : `${n} ${unit}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

/** Short spans to a tenth of a second: what a viewer misses. */
export const missing = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds));

/** A playing time: `1:02:03`. */
export function playing(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.round(seconds);
  const parts = [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60];
  if (!parts[0]) parts.shift();
  return parts.map((n, i) => (i ? String(n).padStart(2, "0") : n)).join(":");
}

export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  if (count < 1000) return `${count} B`;
  const step = Math.min(4, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** step;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${["", "kB", "MB", "GB", "TB"][step]}`;
}

export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** Why a recorder was replaced, as half a sentence. */
export function cause(reason) {
  switch (reason?.kind) {
    case "died": return `its first process ended with exit code ${reason.code}`;
    case "out-of-memory": return "the kernel ended it for want of memory";
    case "removed": return "its container was removed";
    case "frozen": return "its container was frozen";
    case "stalled": return "nothing more recorded, and its first process did not answer";
    case "silent": return "no heartbeat for too long";
    case "stuck": return "heartbeats, but nothing more recorded";
    case "reported": return `the recorder said: ${reason.message}`;
    case "requested": return `asked for: ${reason.message}`;
    case "came-back": return "it came back by itself";
    default: return reason?.kind ?? "unknown";
  }
}

/** Writes only what changed, so that an unchanged row costs nothing. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function stamp(node, at, text) {
  put(node, text);
  if (node.at === at) return;
  node.at = at;
  node.dateTime = Number.isFinite(at) ? new Date(at).toISOString() : "";
  node.title = absolute(at);
}

/** A copy of a template, with its fields by name. */
export function stencil(id, key) {
  const node = $(id).content.firstElementChild.cloneNode(true);
  node.dataset.id = node.querySelector(".shot").dataset.id = key;
  const fields = Object.fromEntries([...node.querySelectorAll("[data-f]")].map((field) => [field.dataset.f, field]));
  fields.image.addEventListener("load", () => (fields.image.hidden = false));
  return { node, fields, strip: node.querySelector(".timeline") };
}

/** Names a row, for the eye and for the ear. */
export function name({ fields, node }, text) {
  put(fields.name, text);
  if (fields.name.title === text) return;
  fields.name.title = text;
  node.querySelector(".shot").setAttribute("aria-label", `Play ${text}`);
}

export function make(tag, members = {}, ...children) {
  const node = Object.assign(document.createElement(tag), members);
  node.append(...children);
  return node;
}
