// A recording as a strip of time: each run a band whose cells are its chunks, each gap red with a mark that tells its
// seconds and cause. Drawn from what the controller knows while it records, from the timeline file after.

import { cause, clock, count, make, missing, ms, put } from "./format.js";

const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];
const NARROWEST = 4; // pixels of a cell

/** What is known of a session. Its end moves on; the scale does so in steps, so that nothing shifts every second. */
export function ofSession(session, now, over) {
  const from = ms(session.createdAt);
  const runs = [];
  const gaps = [];
  let cursor = from;
  for (const one of session.failovers ?? []) {
    const at = ms(one.at);
    const end = Math.max(cursor, Math.min(ms(one.wellUntil) || at, at));
    runs.push({ run: one.oldRun, from: cursor, to: end });
    const back = one.recoveryMs == null ? undefined : at + one.recoveryMs;
    cursor = Math.max(end, back ?? (over ? at : now));
    gaps.push({ from: end, to: cursor, open: back === undefined && !over, cause: cause(one.reason), mark: at });
  }
  const lost = session.state?.state === "takingOver" && !gaps.at(-1)?.open;
  const newest = ms(session.report?.newestFrameAt) || (session.status === "STARTING" ? cursor : ms(session.lastHeartbeat));
  const end = Math.max(cursor, over ? Math.min(newest, ms(session.state?.at) || newest) : lost ? newest : Math.min(now, newest));
  if (end > cursor) runs.push({ run: session.run ?? 1, from: cursor, to: end, live: !over && !lost });
  if (lost) gaps.push({ from: end, to: now, open: true, cause: cause(session.state.reason), mark: now });
  const length = Math.max(1, (Math.max(end, over ? 0 : now) - from) / 1000);
  const scale = over ? length : (STEPS.find((step) => step >= length) ?? length);
  return { from, to: from + scale * 1000, runs, gaps };
}

/** What `<id>.timeline.json` says: exact. */
export function ofFile(file) {
  const runs = file.runs.map(({ run, chunks }) => ({
    run,
    chunks: chunks.length,
    from: ms(chunks[0]?.startedAt),
    to: Math.max(...chunks.map((chunk) => ms(chunk.startedAt) + chunk.durationSeconds * 1000)),
  })).filter((run) => run.to > run.from);
  const gaps = file.gaps.map((gap) => ({ from: ms(gap.from), to: ms(gap.to), seconds: gap.seconds, cause: gap.cause, mark: ms(gap.from) }));
  return { from: ms(file.startedAt), to: ms(file.endedAt), runs, gaps };
}

const seconds = (gap) => gap.seconds ?? (gap.to - gap.from) / 1000;

function says(gap) {
  const lack = gap.open ? `missing for ${missing(seconds(gap))} so far` : `${missing(seconds(gap))} missing`;
  return `${clock(gap.mark)}: ${gap.cause}; ${lack}`;
}

/** Draws `strip` into `box`, touching only what is not there yet. */
export function draw(box, strip, chunkSeconds, width = box.clientWidth || 600) {
  const whole = strip.to - strip.from;
  const share = (at) => Math.min(100, Math.max(0, ((at - strip.from) / whole) * 100));
  const kept = box.strip ?? fresh(box);
  fit(kept.band, strip.runs.length + strip.gaps.length, () => make("span"));
  fit(kept.marks, strip.gaps.length, () => make("button", { className: "mark" }, make("span"), make("span", { className: "tip" })));
  // A cell is one chunk, or several where one would be too narrow to see.
  let cell = chunkSeconds;
  while (((cell * 1000) / whole) * width < NARROWEST) cell *= 2;
  strip.runs.forEach((run, i) => {
    const piece = kept.band.children[i];
    place(piece, share(run.from), share(run.to) - share(run.from), `run ${run.run % 2 ? "odd" : "even"}${run.live ? " live" : ""}`);
    piece.style.setProperty("--cell", `${((cell * 1000) / Math.max(1, run.to - run.from)) * 100}%`);
    const chunks = run.chunks ?? Math.max(1, Math.ceil((run.to - run.from) / 1000 / chunkSeconds));
    const text = `Run ${run.run}: about ${count(chunks, "chunk")}, from ${clock(run.from)}`;
    if (piece.title !== text) piece.title = text;
  });
  let free = -Infinity;
  strip.gaps.forEach((gap, i) => {
    const at = share(gap.from);
    place(kept.band.children[strip.runs.length + i], at, share(gap.to) - at, "gap");
    const mark = kept.marks.children[i];
    const roomy = at - free > 9;
    if (roomy) free = at;
    place(mark, at, undefined, `mark${at > 50 ? " left" : ""}${roomy ? "" : " bare"}`);
    put(mark.children[0], missing(seconds(gap)));
    put(mark.children[1], says(gap));
  });
  put(kept.begin, clock(strip.from));
  put(kept.end, clock(strip.to));
  const gaps = strip.gaps.length;
  const sum = strip.gaps.reduce((all, gap) => all + seconds(gap), 0);
  const label = `Timeline: ${count(strip.runs.length, "run")}, ${gaps ? `${count(gaps, "gap")}, ${missing(sum)} missing` : "nothing missing"}`;
  if (box.getAttribute("aria-label") !== label) box.setAttribute("aria-label", label);
}

function fresh(box) {
  box.setAttribute("role", "group");
  const marks = make("div", { className: "marks" });
  const band = make("div", { className: "band" });
  const begin = make("span");
  const end = make("span");
  box.replaceChildren(marks, band, make("div", { className: "scale" }, begin, end));
  return (box.strip = { marks, band, begin, end });
}

function fit(parent, count, child) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(child());
}

function place(node, left, width, name) {
  if (node.className !== name) node.className = name;
  const x = `${left.toFixed(2)}%`;
  if (node.x !== x) node.style.left = node.x = x;
  const w = width === undefined ? "" : `${width.toFixed(2)}%`;
  if (node.w !== w) node.style.width = node.w = w;
}
