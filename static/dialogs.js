// The two dialogs: one asks before anything is done, one plays a video. Only what was confirmed is sent.

import { act } from "./live.js";
import { $, make } from "./format.js";

const at = (id) => encodeURIComponent(id);

/** Everything a person can do here: its name, what it means, and the request it is. */
export const ACTIONS = {
  failover: {
    name: "Fail over now",
    means: "The recorder is ended and another goes on. Some seconds will be missing.",
    reason: true,
    send: (id, reason) => act("POST", `/api/failover/${at(id)}`, { reason: reason || "asked for on the status page" }),
    done: "Another recorder takes over.",
  },
  stop: {
    name: "Stop",
    means: "Recording ends now and the video is finished.",
    send: (id) => act("PUT", `/api/sessions/${at(id)}/stop`),
    done: "Told to stop.",
  },
  deactivate: {
    name: "Deactivate",
    means: "A lost recorder will not be replaced any more. Recording itself goes on.",
    send: (id) => act("PUT", `/api/sessions/${at(id)}/deactivate`),
    done: "Not watched any more.",
  },
  remove: {
    name: "Remove",
    means: "The controller forgets this session. The video stays.",
    send: (id) => act("DELETE", `/api/sessions/${at(id)}`),
    done: "Removed.",
  },
  check: {
    name: "Check now",
    means: "Every session is checked at once. A recorder that was lost is replaced.",
    send: () => act("POST", "/api/failover/check"),
    done: "All sessions were checked.",
  },
  replay: {
    name: "Replay",
    means: "This webhook is sent again to its target.",
    send: (id) => act("POST", `/api/webhooks/${at(id)}/replay`),
    done: "It waits to be sent again.",
  },
  "replay-all": {
    name: "Replay all",
    means: "Every webhook that was given up is sent again to its target, in order.",
    send: () => act("POST", "/api/webhooks/replay", {}),
    done: "They wait to be sent again.",
  },
};

/** A button that offers an action; the page's one listener does the rest. */
export function offer(key, id, label = "") {
  const button = make("button", { className: key === "remove" ? "may risky" : "may" }, ACTIONS[key].name);
  button.dataset.act = key;
  if (id) button.dataset.id = id;
  if (label) button.setAttribute("aria-label", `${ACTIONS[key].name}: ${label}`);
  return button;
}

/** Asks, sends, says how it went. */
export async function perform(key, id, label) {
  const action = ACTIONS[key];
  const reason = await confirmed(action, label);
  if (reason === undefined) return false;
  try {
    await action.send(id, reason);
    say(`${label ? `${label}: ` : ""}${action.done}`);
    return true;
  } catch (fault) {
    say(`${action.name} did not work: ${fault.message}`, true);
    return false;
  }
}

function confirmed(action, label) {
  const dialog = $("confirm");
  $("confirm-title").textContent = label ? `${action.name}: ${label}?` : `${action.name}?`;
  $("confirm-text").textContent = action.means;
  $("confirm-yes").textContent = action.name;
  $("confirm-reason").hidden = !action.reason;
  $("reason").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes" ? $("reason").value.trim() : undefined), { once: true });
  });
}

let fading;
export function say(text, bad = false) {
  const toast = $("toast");
  toast.textContent = text;
  toast.dataset.bad = bad;
  clearTimeout(fading);
  fading = setTimeout(() => (toast.textContent = ""), bad ? 15_000 : 6_000);
}

/** Plays a recording in place, also one that is still being made. */
export function play(id, name, running) {
  const video = $("video");
  $("player-title").textContent = name;
  $("player-note").textContent = running ? "Still running; open it again for what came since." : "";
  video.src = `/api/recordings/${at(id)}/video`;
  const dialog = $("player");
  dialog.showModal();
  dialog.addEventListener("close", () => {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }, { once: true });
  video.play().catch(() => {});
}
