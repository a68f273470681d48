// Beside the sessions: health, the webhooks that wait or were given up, and all failovers.

import { ask } from "./live.js";
import { entry } from "./sessions.js";
import { $, clock, make, ms, put, span } from "./format.js";
import { offer } from "./dialogs.js";

const HISTORY = 30;

export function health(overview) {
  const parts = Object.entries(overview.health?.components ?? {});
  const told = JSON.stringify(parts);
  if ($("parts").told === told) return;
  $("parts").told = told;
  $("parts").replaceChildren(...parts.map(([name, part]) => {
    const up = part.status === "UP";
    const item = make("li", {}, make("span", { className: "badge" }, up ? "Up" : part.status === "DOWN" ? "Down" : part.status), make("b", {}, title(name)), make("span", { className: "muted" }, part.summary));
    item.dataset.up = up;
    return item;
  }));
}

/** The pages of sessions in quick-start mode, while no recording is made of them. */
export function pages(overview, now) {
  const all = overview.waiting ?? [];
  $("waiting").hidden = !all.length;
  const list = $("pages");
  if (list.children.length !== all.length) list.replaceChildren(...all.map(() => make("li", {}, make("b"), " ", make("span", { className: "muted" }))));
  all.forEach((page, i) => {
    put(list.children[i].children[0], page.sessionId.replace(/^quick:/, ""));
    put(list.children[i].children[1], `open for ${span((now - ms(page.createdAt)) / 1000)}`);
  });
}

const title = (name) => name[0].toUpperCase() + name.slice(1);

export function outbox(overview, now) {
  const box = overview.outbox ?? {};
  const waits = box.oldestPendingAt ? `${box.pending}, oldest ${span((now - ms(box.oldestPendingAt)) / 1000)}` : String(box.pending ?? 0);
  const all = box.enabled || box.pending || box.dead ? [["Waiting", waits], ["Given up", String(box.dead ?? 0)]] : [["Relay", "off"]];
  const list = $("outbox");
  if (list.children.length !== all.length) list.replaceChildren(...all.map(() => make("div", {}, make("dt"), make("dd"))));
  all.forEach(([term, value], i) => {
    put(list.children[i].children[0], term);
    put(list.children[i].children[1], value);
  });
  const error = $("outbox-error");
  error.hidden = !box.lastError || !(box.pending || box.dead);
  put(error, box.lastError ? `Last error${box.lastErrorAt ? ` at ${clock(ms(box.lastErrorAt))}` : ""}: ${box.lastError}` : "");
  $("replay-all").hidden = !(box.dead > 1);
  if (box.dead !== letters.dead) {
    letters.dead = box.dead;
    letters();
  }
}

/** Fetches the dead letters anew. */
export async function letters() {
  const list = $("letters");
  if (!letters.dead) return list.replaceChildren();
  const told = await ask("/api/webhooks?state=dead&limit=20").catch(() => undefined);
  if (!told) return;
  list.replaceChildren(...(told.webhooks ?? []).map((one) => make("li", {},
    make("div", {}, make("b", {}, one.event ?? "webhook"), ` ${one.sessionId ?? ""} `, make("span", { className: "muted" }, `${clock(ms(one.receivedAt))}${one.lastError ? `: ${one.lastError}` : ""}`)),
    offer("replay", one.id, one.event ?? ""))));
}

export function history(sessions) {
  const all = [];
  for (const session of sessions.values()) {
    for (const one of session.failovers ?? []) all.push({ one, name: session.videoName || session.sessionId });
  }
  all.sort((a, b) => ms(b.one.at) - ms(a.one.at));
  const told = JSON.stringify(all.slice(0, HISTORY));
  if ($("history").told === told) return;
  $("history").told = told;
  $("history").replaceChildren(...all.slice(0, HISTORY).map(({ one, name }) => entry(one, name)));
  $("history-empty").hidden = all.length > 0;
  put($("history-count"), all.length > HISTORY ? `newest ${HISTORY} of ${all.length}` : all.length ? String(all.length) : "");
}
