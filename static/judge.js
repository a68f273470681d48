// What the controller judges, for the page to show. The page itself judges one thing only: that the controller is silent.

import { clock, count, ms, span } from "./format.js";

const OVER = new Set(["COMPLETED", "FAILED", "INACTIVE"]);
const WEIGHT = { look: 1, act: 2 };
const LEVEL = { look: "note", act: "bad" };

export const over = (session) => OVER.has(session.status);
export const word = (status) => status[0] + status.slice(1).toLowerCase();

/** What is judged of each session that there is a worry about: `{ weight, badge }`; the heaviest worry comes first. */
export function bySession(judgement) {
  const told = new Map();
  for (const { area, subject, severity, badge } of judgement.worries) {
    if (area !== "session") continue;
    const known = told.get(subject);
    if (known) known.badge ??= badge;
    else told.set(subject, { weight: WEIGHT[severity], badge });
  }
  return told;
}

/** `{ level, verdict, more, worries }` for the headline. */
export function headline({ judgement, link, now }) {
  if (link.state === "lost") return lost(link);
  if (!judgement) return { level: "wait", verdict: "Asking the controller", more: "One moment.", worries: [] };
  const { severity, verdict, more, worries } = judgement;
  const told = worries.slice(0, worries.length > 6 ? 5 : 6).map((worry) => ({
    weight: WEIGHT[worry.severity],
    reveal: worry.area === "session" ? worry.subject : `${worry.area}-title`,
    text: `${worry.text}.`,
    more: `For ${span((now - ms(worry.since)) / 1000)}. What to do: ${worry.advice}.`,
  }));
  const left = worries.length - told.length;
  if (left) told.push({ weight: WEIGHT[worries[5].severity], reveal: "", text: `and ${count(left, "more thing")}`, more: "" });
  return { level: LEVEL[severity] ?? "well", verdict, more, worries: told };
}

function lost({ since }) {
  const more = `Since ${clock(since)}, ${span((Date.now() - since) / 1000)} ago. Recorders go on without it; this page comes back by itself.`;
  return { level: "bad", verdict: "The controller does not answer.", more, worries: [] };
}
