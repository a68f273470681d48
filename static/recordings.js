// What lies in the recordings folder: to play here, to download, with its timeline to unfold.

import { ask } from "./live.js";
import { draw, ofFile } from "./timeline.js";
import { $, bytes, clock, count, make, missing, ms, name, playing, put, stamp, stencil } from "./format.js";

const PAGE = 50;
const WORD = { ready: "Ready", stopped: "Finishing", failed: "Failed", started: "Recording" };
const films = new Map();
let wanted = PAGE;
let chunkSeconds = 10;

export function start() {
  $("films-more").addEventListener("click", () => {
    wanted += PAGE;
    refresh(chunkSeconds);
  });
  $("films").addEventListener("click", (event) => {
    const link = event.target.closest('[data-f="timeline"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    unfold(films.get(link.closest(".row").dataset.id));
  });
}

export async function refresh(seconds) {
  chunkSeconds = seconds;
  const told = await ask(`/api/recordings?limit=${wanted}`).catch(() => undefined);
  if (!told) return;
  const now = new Set(told.recordings.map((film) => film.id));
  for (const [id, row] of films) {
    if (now.has(id)) continue;
    row.node.remove();
    films.delete(id);
  }
  told.recordings.forEach((film, i) => {
    const row = films.get(film.id) ?? fresh(film);
    fill(row, film);
    if ($("films").children[i] !== row.node) $("films").insertBefore(row.node, $("films").children[i] ?? null);
  });
  $("films-empty").hidden = films.size > 0;
  $("films-more").hidden = told.recordings.length >= told.count;
  put($("recordings-count"), told.count ? String(told.count) : "");
}

function fresh(film) {
  const row = stencil("t-film", film.id);
  const { fields } = row;
  const at = `/api/recordings/${encodeURIComponent(film.id)}`;
  fields.download.href = `${at}/video`;
  fields.timeline.href = `${at}/timeline`;
  fields.image.loading = "lazy";
  films.set(film.id, row);
  return row;
}

function fill(row, film) {
  const { node, fields } = row;
  row.film = film;
  const title = film.name || film.id;
  name(row, title);
  node.dataset.is = film.status === "failed" ? "FAILED" : film.status === "ready" ? "COMPLETED" : "STOPPING";
  put(fields.badge, WORD[film.status] ?? film.status);
  const at = ms(film.startedAt);
  stamp(fields.since, at, film.id === title ? clock(at) : `${clock(at)} · ${film.id}`);
  put(fields.duration, playing(film.durationSeconds ?? NaN));
  put(fields.runs, film.runs == null ? "–" : String(film.runs));
  put(fields.gaps, film.gaps == null ? "–" : film.gaps ? `${missing(film.gapSeconds)} in ${count(film.gaps, "gap")}` : "nothing");
  fields.gaps.classList.toggle("lack", film.gaps > 0);
  put(fields.bytes, bytes(film.bytes));
  fields.download.download = `${title}.mp4`;
  fields.download.setAttribute("aria-label", `Download ${title}`);
  fields.timeline.setAttribute("aria-label", `Timeline of ${title}`);
  fields.timeline.hidden = !film.timeline;
  if (film.preview && !fields.image.src) fields.image.src = `/api/recordings/${encodeURIComponent(film.id)}/preview.jpg`;
}

async function unfold(row) {
  const open = row.strip.hidden;
  row.strip.hidden = !open;
  row.fields.timeline.setAttribute("aria-expanded", open);
  if (!open || row.strip.strip) return;
  const file = await ask(row.fields.timeline.href).catch(() => undefined);
  if (!file) return;
  draw(row.strip, ofFile(file), chunkSeconds);
  row.strip.append(make("a", { href: row.fields.timeline.href, className: "file" }, `${row.film.id}.timeline.json`));
}

export const nameOf = (id) => films.get(id)?.film.name;
