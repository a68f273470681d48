// The list of sessions. A row is made once and only what changed in it is written; rows out of sight are left alone, so
// that five hundred sessions cost what a screenful does.

import { over, word } from "./judge.js";
import { draw, ofSession } from "./timeline.js";
import { $, absolute, bytes, cause, clock, count, make, missing, ms, name, put, span, stamp, stencil } from "./format.js";
import { offer } from "./dialogs.js";

const SHOT = 5_000;
const FILTERS = [
  ["all", "All", () => true],
  ["worry", "Attention", (row) => row.weight > 0],
  ...["STARTING", "RECORDING", "PAUSED", "STOPPING"].map((is) => [is, word(is), (row) => row.session.status === is]),
  ["over", "Ended", (row) => over(row.session)],
];
const SORTS = {
  worry: (a, b) => b.weight - a.weight || over(a.session) - over(b.session) || b.born - a.born,
  newest: (a, b) => b.born - a.born,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  silence: (a, b) => a.beat - b.beat,
};

const rows = new Map();
const seen = new Set();
let filter = "all";
let width = 600;
let context = { now: Date.now(), overview: undefined, judged: new Map() };
let judged = context.judged;

const eye = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const row = rows.get(target.dataset.id);
    if (!row) continue;
    if (isIntersecting) {
      seen.add(row);
      paint(row);
    } else seen.delete(row);
  }
}, { rootMargin: "200px" });

export function start() {
  for (const [key, label] of FILTERS) {
    const chip = make("button", { className: "chip" }, `${label} `, make("b", {}, "0"));
    chip.dataset.filter = key;
    chip.addEventListener("click", () => choose(key));
    chip.setAttribute("aria-pressed", key === filter);
    $("chips").append(chip);
  }
  $("search").addEventListener("input", arrange);
  $("sort").addEventListener("change", arrange);
  $("rows").addEventListener("click", ({ target }) => {
    const more = target.closest(".more");
    if (more) unfold(rows.get(more.closest(".row").dataset.id));
  });
  new ResizeObserver(() => {
    // Measured once for all rows: to ask each one would cost a layout each.
    width = [...seen][0]?.strip.clientWidth || width;
    seen.forEach(paint);
  }).observe($("rows"));
}

export function choose(key) {
  filter = key;
  for (const chip of $("chips").children) chip.setAttribute("aria-pressed", chip.dataset.filter === key);
  arrange();
}

/** Takes over what changed; `ids` are the sessions that did, all when it is left out. */
export function update(sessions, ids, next) {
  context = next;
  for (const id of rows.keys()) if (!sessions.has(id)) drop(id);
  for (const id of ids ?? sessions.keys()) {
    const session = sessions.get(id);
    if (session) take(session);
  }
  if (judged !== context.judged) {
    judged = context.judged;
    for (const row of rows.values()) if (assess(row) && seen.has(row)) paint(row);
  }
  arrange();
}

/** A second has passed: ages. */
export function tick(next) {
  context = next;
  seen.forEach(paint);
}

function take(session) {
  let row = rows.get(session.sessionId);
  const fresh = !row;
  if (fresh) {
    row = stencil("t-session", session.sessionId);
    rows.set(session.sessionId, row);
    eye.observe(row.node);
  }
  row.session = session;
  row.name = session.videoName || session.sessionId;
  row.born = ms(session.createdAt);
  row.beat = ms(session.lastHeartbeat);
  row.words = [row.name, session.sessionId, session.clientHost, session.clientId, session.originalSessionId].join(" ").toLowerCase();
  assess(row);
  if (fresh || seen.has(row)) paint(row);
}

function drop(id) {
  const row = rows.get(id);
  eye.unobserve(row.node);
  seen.delete(row);
  row.node.remove();
  rows.delete(id);
}

/** Takes over what the controller judges of a row; answers whether it turned. */
function assess(row) {
  const { weight = 0, badge } = context.judged.get(row.session.sessionId) ?? {};
  const is = badge ?? word(row.session.status);
  const turned = row.is !== is || row.weight !== weight;
  row.is = is;
  row.weight = weight;
  return turned;
}

/** Since when a session does what it does. */
const since = ({ state, createdAt }) => ms(state?.since ?? state?.at ?? createdAt);

function arrange() {
  const wanted = $("search").value.trim().toLowerCase();
  const kept = FILTERS.find(([key]) => key === filter)[2];
  const order = [...rows.values()].sort(SORTS[$("sort").value]);
  let shown = 0;
  let place = $("rows").firstElementChild;
  const focus = document.activeElement;
  for (const row of order) {
    const show = kept(row) && row.words.includes(wanted);
    if (row.node.hidden === show) row.node.hidden = !show;
    shown += show;
    if (row.node === place) place = place.nextElementSibling;
    else $("rows").insertBefore(row.node, place);
  }
  if (document.activeElement !== focus) focus.focus({ preventScroll: true });
  for (const [i, [, , fits]] of FILTERS.entries()) put($("chips").children[i].lastChild, String(order.filter(fits).length));
  $("rows-empty").hidden = shown > 0;
  put($("rows-empty"), rows.size ? "No session matches." : "A session appears here as soon as a recorder registers.");
}

function paint(row) {
  const { session, node, fields } = row;
  const { now, overview } = context;
  const report = session.report ?? {};
  const ended = over(session);
  const is = row.is.toUpperCase();
  if (node.dataset.is !== is) node.dataset.is = is;
  name(row, row.name);
  put(fields.more.firstChild, `Details of ${row.name}`);
  put(fields.badge, row.is);
  const from = since(session);
  stamp(fields.since, from, ended ? `at ${clock(from)}` : `for ${span((now - from) / 1000)}`);
  stamp(fields.beat, row.beat, Number.isFinite(row.beat) ? `${span((now - row.beat) / 1000)} ago` : "–");
  put(fields.run, String(session.run ?? 1));
  put(fields.chunk, String(report.chunk || (session.lastChunk ? parseInt(session.lastChunk, 10) : "") || "–"));
  put(fields.bytes, report.bytes ? bytes(report.bytes) : "–");
  put(fields.stored, report.chunksStored ? count(report.chunksStored, "chunk") : "–");
  draw(row.strip, ofSession(session, now, ended), overview?.chunkSeconds ?? 10, width);
  troubles(fields.troubles, ended ? [] : (report.troubles ?? []));
  shoot(row, ended);
  if (!row.fields.detail.hidden) detail(row);
}

function troubles(list, found) {
  list.hidden = !found.length;
  const text = found.map((one) => one.message).join("\n");
  if (list.text === text) return;
  list.text = text;
  list.replaceChildren(...found.map((one) => make("li", {}, one.message)));
}

/** A new picture every few seconds, of rows in view only. */
function shoot(row, ended) {
  const turn = ended ? "last" : Math.floor(Date.now() / SHOT);
  if (row.turn === turn || !seen.has(row) || document.hidden) return;
  row.turn = turn;
  row.fields.image.src = `/api/recordings/${encodeURIComponent(row.session.sessionId)}/preview.jpg?live=${turn}`;
}

function unfold(row) {
  const open = row.fields.detail.hidden;
  row.fields.detail.hidden = !open;
  row.fields.more.setAttribute("aria-expanded", open);
  row.told = undefined;
  if (open) detail(row);
}

function detail(row) {
  const { session } = row;
  const told = JSON.stringify([session, row.is]);
  if (row.told === told) return;
  row.told = told;
  const box = row.fields.detail;
  const focused = box.contains(document.activeElement) && document.activeElement.dataset.act;
  box.replaceChildren(actions(session, row.name), facts(session), ...failovers(session));
  if (focused) box.querySelector(`[data-act="${focused}"]`)?.focus();
}

function actions(session, whose) {
  const id = session.sessionId;
  const keys = over(session) ? ["remove"] : ["failover", "stop", "deactivate", "remove"];
  return make("div", { className: "ends" }, ...keys.map((key) => offer(key, id, whose)));
}

function facts(session) {
  const { report = {}, containerInfo = {} } = session;
  const restarts = Object.entries(report.restarts ?? {}).filter(([, times]) => times);
  const all = [
    ["Recording", session.sessionId],
    ["OpenVidu session", session.originalSessionId],
    ["Recorder", [session.clientId, session.clientHost].filter(Boolean).join(" on ")],
    ["Container", containerInfo?.containerName || containerInfo?.containerId],
    ["Backup container", session.backupContainerName],
    ["Registered", clock(ms(session.createdAt))],
    ["Newest frame on disk", report.newestFrameAt && clock(ms(report.newestFrameAt))],
    ["Frames", report.frames && `${report.frames}${report.lateFrames ? `, ${report.lateFrames} late` : ""}`],
    ["Restarted in place", restarts.map(([child, times]) => `${child} ${times}×`).join(", ")],
    ["File", session.recordingPath],
    ["Chunks in", context.overview?.storage],
    ["Why it failed", session.state?.why],
  ];
  const list = make("dl", { className: "known" });
  for (const [term, value] of all) if (value) list.append(make("div", {}, make("dt", {}, term), make("dd", {}, String(value))));
  return list;
}

function failovers(session) {
  const all = session.failovers ?? [];
  if (!all.length) return [];
  return [make("h4", {}, "Failovers"), make("ol", { className: "history" }, ...all.map((one) => entry(one)))];
}

/** One failover in words. */
export function entry(one, whose) {
  const at = ms(one.at);
  const time = make("time", { dateTime: one.at, title: absolute(at) }, clock(at));
  const gone = one.recoveryMs == null ? "not back yet" : `back after ${missing(one.recoveryMs / 1000)}`;
  return make("li", {}, time, " ", make("b", {}, whose || `Run ${one.oldRun}`), `: ${cause(one.reason)}; ${gone}, ${count(one.chunksRecovered, "chunk")} kept.`);
}

export const reveal = (id) => {
  const row = rows.get(id);
  if (!row) return $(id)?.scrollIntoView({ block: "center" });
  row.node.hidden = false;
  row.node.scrollIntoView({ block: "center" });
  row.fields.more.focus();
};

export const nameOf = (id) => rows.get(id)?.name ?? id;
