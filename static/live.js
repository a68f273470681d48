// The line to the controller: server-sent events where they can be had, else a question every few seconds. When neither
// answers it says so and since when, and tries on.

const SILENCE = 8_000; // longest pause between events, pings included
const POLL = 3_000;
const LONGEST = 10_000;
const ANSWER = 5_000; // longest that an answer is waited for
const WORK = 90_000; // the same where something is done: a check asks Docker

const late = (limit) => ({ cache: "no-store", signal: AbortSignal.timeout(limit) });

export class Live {
  #source;
  #timer;
  #heard = 0;
  #last = "";
  #failures = 0;
  #lostAt;
  #on;

  /** `on.news(kind, news)` and `on.link({ state, since })` with `state` one of `live`, `polling`, `wait`, `lost`. */
  constructor(on) {
    this.#on = on;
    this.#open();
    setInterval(() => {
      if (this.#source && performance.now() - this.#heard > SILENCE) this.#failed();
    }, 1_000);
    addEventListener("offline", () => this.#failed());
  }

  #open() {
    this.#close();
    const from = this.#last ? `?lastEventId=${encodeURIComponent(this.#last)}` : "";
    const source = (this.#source = new EventSource(`/api/events${from}`));
    this.#heard = performance.now();
    for (const kind of ["snapshot", "changes", "ping"]) {
      source.addEventListener(kind, (event) => {
        this.#heard = performance.now();
        this.#failures = 0;
        if (event.lastEventId) this.#last = event.lastEventId;
        this.#up("live");
        if (kind !== "ping") this.#on.news(kind, JSON.parse(event.data));
      });
    }
    source.onerror = () => this.#failed();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
  }

  async #failed() {
    this.#close();
    this.#failures += 1;
    // Said at once; whether it is lost the next answer tells, or that there is none.
    if (!this.#lostAt && this.#failures === 1) this.#on.link({ state: "wait" });
    try {
      // The stream may be all that a proxy in between does not let through.
      const answer = await fetch("/api/overview", late(ANSWER));
      if (!answer.ok) throw new Error(answer.statusText);
      this.#on.news("snapshot", await answer.json());
      this.#up("polling");
      this.#again(POLL, this.#failures % 20 < 3);
    } catch {
      this.#lostAt ??= Date.now();
      this.#on.link({ state: "lost", since: this.#lostAt });
      this.#again(Math.min(LONGEST, 500 * 1.5 ** this.#failures));
    }
  }

  #again(delay, stream = true) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (stream ? this.#open() : this.#failed()), delay);
  }

  #up(state) {
    this.#lostAt = undefined;
    this.#on.link({ state });
  }
}

/** Does something; answers the body, or throws a sentence. */
export async function act(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      ...late(WORK),
      method,
      headers: { "X-Requested-With": "ov2-ha-recorder", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
  } catch (fault) {
    throw new Error(fault.name === "TimeoutError" ? "The controller has not answered yet; it may still be done." : "The controller does not answer.");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.message ?? `The controller answered ${answer.status}.`);
  return told;
}

export async function ask(path) {
  const answer = await fetch(path, late(ANSWER));
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.json();
}
