// The line to the controller: server-sent events where they can be had, else a question every few seconds. When neither
// answers it says so and since when, and tries on.

const SILENCE = 20_000; // longest pause between events, pings included
const POLL = 3_000;
const LONGEST = 10_000;

export class Live {
  #source;
  #timer;
  #heard = 0;
  #last = "";
  #failures = 0;
  #lostAt;
  #on;

  /** `on.news(kind, news)` and `on.link({ state, since })` with `state` one of `live`, `polling`, `lost`. */
  constructor(on) {
    this.#on = on;
    this.#open();
    setInterval(() => {
      if (this.#source && performance.now() - this.#heard > SILENCE) this.#failed();
    }, 5_000);
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
    try {
      // The stream may be all that a proxy in between does not let through.
      const answer = await fetch("/api/overview", { cache: "no-store" });
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
      method,
      headers: { "X-Requested-With": "ov2-ha-recorder", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The controller does not answer.");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.message ?? `The controller answered ${answer.status}.`);
  return told;
}

export async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.json();
}
