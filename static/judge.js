// Is all well? Looks at everything that is known and answers in words: a verdict, and each worry with where it lies.

import { bytes, cause, clock, count, ms, span } from "./format.js";

const OVER = new Set(["COMPLETED", "FAILED", "INACTIVE"]);

export const over = (session) => OVER.has(session.status);

const patience = (overview) => (overview?.heartbeatTimeoutSeconds ?? 30) * 1000;

/** What a session does, for its badge: `LOST` while another recorder is being started, `SILENT` when a heartbeat is late. */
export function condition(session, now, overview) {
  if (session.state?.state === "takingOver") return "LOST";
  if (session.active && now - ms(session.lastHeartbeat) > patience(overview)) return "SILENT";
  return session.status;
}

export const word = (is) => (is === "LOST" ? "Taking over" : is[0] + is.slice(1).toLowerCase());

/** 0 well, 1 worth a look, 2 a person must act. */
export function weight(session, condition, now, overview) {
  if (condition === "FAILED") return 2;
  // The controller acts by itself; only when that takes too long must a person.
  if (condition === "LOST") return now - since(session) > patience(overview) ? 2 : 1;
  if (condition === "SILENT") return now - ms(session.lastHeartbeat) > 2 * patience(overview) ? 2 : 1;
  return !over(session) && session.report?.troubles?.length ? 1 : 0;
}

export function since(session) {
  return ms(session.state?.since ?? session.state?.at ?? session.createdAt);
}

function ofSession(session, now, overview) {
  const is = condition(session, now, overview);
  const name = session.videoName || session.sessionId;
  const id = session.sessionId;
  const worries = [];
  const level = weight(session, is, now, overview);
  const tell = (level, text) => worries.push({ level, text, id });
  if (is === "FAILED") tell(level, `${name} was given up: ${session.state?.why || "no recorder could go on"}. What was recorded is kept.`);
  if (is === "LOST") tell(level, `${name} lost its recorder ${span((now - since(session)) / 1000)} ago (${cause(session.state.reason)}); another is being started.`);
  if (is === "SILENT") tell(level, `${name} has not been heard for ${span((now - ms(session.lastHeartbeat)) / 1000)}.`);
  if (!over(session)) for (const trouble of session.report?.troubles ?? []) tell(1, `${name}: ${trouble.message}`);
  return worries;
}

function ofController(overview, now) {
  const worries = [];
  const tell = (level, text, id) => worries.push({ level, text, id });
  for (const [name, part] of Object.entries(overview.health?.components ?? {})) {
    if (part.status === "DOWN") tell(2, `${title(name)} is down${part.details?.error ? `: ${part.details.error}` : "."}`, "health-title");
    const { free, total } = part.details ?? {};
    if (total && free / total < 0.05) tell(1, `The disk is nearly full: ${bytes(free)} of ${bytes(total)} are free.`, "health-title");
  }
  const box = overview.outbox ?? {};
  if (box.dead) tell(1, `${count(box.dead, "webhook was", "webhooks were")} given up. See why, then replay.`, "outbox-title");
  const waits = (now - ms(box.oldestPendingAt)) / 1000;
  if (waits > 60) tell(1, `Webhooks wait for ${span(waits)}${box.lastError ? `: ${box.lastError}` : "."}`, "outbox-title");
  return worries;
}

export const title = (name) => name[0].toUpperCase() + name.slice(1);

/** `{ level, verdict, more, worries }`, the worst worry first. */
export function judge({ sessions, overview, link, now }) {
  if (link.state === "lost") return lost(link);
  if (!overview) return { level: "wait", verdict: "Asking the controller", more: "One moment.", worries: [] };
  const all = [...sessions.values()];
  const worries = [...all.flatMap((session) => ofSession(session, now, overview)), ...ofController(overview, now)];
  worries.sort((a, b) => b.level - a.level);
  const running = all.filter((session) => session.status === "RECORDING").length;
  const runs = running ? `${count(running, "recording is", "recordings are")} running.` : "Nothing is being recorded.";
  if (!worries.length) return { level: "well", verdict: "All is well.", more: runs, worries };
  const acute = worries.filter((worry) => worry.level === 2).length;
  const verdict = acute
    ? `${count(acute, "thing needs", "things need")} you.`
    : `${running ? "Recording goes on" : "No recording is at risk"}; ${count(worries.length, "thing is", "things are")} worth a look.`;
  return { level: acute ? "bad" : "note", verdict, more: runs, worries };
}

function lost({ since }) {
  const more = `Since ${clock(since)}, ${span((Date.now() - since) / 1000)} ago. Recorders go on without it; this page comes back by itself.`;
  return { level: "bad", verdict: "The controller does not answer.", more, worries: [] };
}
