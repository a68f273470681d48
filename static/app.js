// The status page. Holds what the controller told, and has each part of the page drawn from it: at most once a frame when
// news comes, once a second for what grows old. The parts know nothing of each other.

import { Live } from "./live.js";
import { bySession, headline, over } from "./judge.js";
import { perform, play } from "./dialogs.js";
import { $, absolute, make, ms, put, span } from "./format.js";
import * as list from "./sessions.js";
import * as side from "./side.js";
import * as films from "./recordings.js";

const known = { sessions: new Map(), overview: undefined, judgement: undefined, judged: new Map(), link: { state: "wait" }, skew: 0 };
let changed = new Set();
let waiting = false;

const now = () => Date.now() + known.skew;
const context = () => ({ now: now(), overview: known.overview, judged: known.judged });

function news(kind, { sessions, removed = [], overview, judgement }) {
  if (kind === "snapshot") {
    known.sessions = new Map();
    changed = undefined;
  }
  for (const session of sessions) {
    known.sessions.set(session.sessionId, session);
    changed?.add(session.sessionId);
  }
  for (const id of removed) known.sessions.delete(id);
  if (judgement) {
    known.judgement = judgement;
    known.judged = bySession(judgement);
  }
  if (overview) {
    const before = known.overview?.recordingsVersion;
    known.overview = overview;
    known.skew = ms(overview.now) - Date.now();
    if (before !== overview.recordingsVersion) films.refresh(overview.chunkSeconds);
    document.body.classList.toggle("viewer", overview.viewer);
  }
  soon();
}

function link(next) {
  if (known.link.state === next.state && known.link.since === next.since) return;
  known.link = next;
  soon();
}

function soon() {
  // A hidden page gets no frames; it draws when it is looked at again, and its title is all that is seen meanwhile.
  if (document.hidden) entitle(headline({ ...known, now: now() }));
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(render);
}

function render() {
  waiting = false;
  const ids = changed;
  changed = new Set();
  $("columns").hidden &&= !known.overview;
  list.update(known.sessions, ids, context());
  if (known.overview) side.health(known.overview);
  side.history(known.sessions);
  aged();
}

/** Everything that changes by time alone. */
function aged() {
  head(headline({ ...known, now: now() }));
  const words = { live: "Live", polling: "Asking every 3 s", wait: "Connecting", lost: "No answer" };
  $("link").dataset.state = known.link.state;
  put($("link-text"), words[known.link.state]);
  if (!known.overview) return;
  side.outbox(known.overview, now());
  side.pages(known.overview, now());
  const { version, startedAt } = known.overview;
  put($("about"), `${version}, up ${span((now() - ms(startedAt)) / 1000)}`);
  $("about").title = `Started ${absolute(ms(startedAt))}`;
}

function head(told) {
  const { level, verdict, more, worries } = told;
  $("headline").dataset.level = level;
  put($("verdict"), verdict);
  put($("verdict-more"), more);
  const list = $("worries");
  list.hidden = !worries.length;
  while (list.children.length > worries.length) list.lastChild.remove();
  while (list.children.length < worries.length) list.append(make("li", {}, make("button", {}, make("span"), make("span", { className: "muted small" }))));
  worries.forEach((worry, i) => {
    const item = list.children[i];
    item.dataset.weight = worry.weight;
    item.firstChild.dataset.reveal = worry.reveal;
    put(item.firstChild.firstChild, worry.text);
    put(item.firstChild.lastChild, worry.more);
  });
  entitle(told);
}

function entitle({ level, verdict, more }) {
  const title = `${level === "bad" ? `(!) ${verdict}` : more} ov2-ha-recorder`;
  if (document.title !== title) document.title = title;
}

function tick() {
  if (document.hidden) return;
  list.tick(context());
  aged();
}

document.addEventListener("click", async ({ target }) => {
  const goal = target.closest("[data-reveal]");
  if (goal) return goal.dataset.reveal ? list.reveal(goal.dataset.reveal) : list.choose("worry");
  const button = target.closest("[data-act]");
  if (!button) return;
  const { act, id } = button.dataset;
  const session = known.sessions.get(id);
  const name = session ? list.nameOf(id) : (films.nameOf(id) ?? "");
  if (act === "play") return play(id, name || id, session && !over(session));
  if ((await perform(act, id, name)) && act.startsWith("replay")) side.letters();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, dialog[open]")) return;
  event.preventDefault();
  $("search").focus();
});

list.start();
films.start();
new Live({ news, link });
setInterval(tick, 1_000);
