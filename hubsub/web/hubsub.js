/**
 * hubsub in the browser: one ES module without dependencies, which speaks `hubsub.v1`.
 *
 *     import { Hub } from "/hubsub.js";
 *     const hub = new Hub("/ws");
 *     hub.subscribe([["room", "*"]], (message) => console.log(message.key, message.data));
 *     await hub.publish(["room", "1"], { text: "hello" });
 *
 * It connects by itself, again and again, and goes on where it was; where messages may be missing it says so by a `gap`.
 *
 * @module
 */

/** @typedef {string[]} Key A key, or a pattern: a last `*` is one or more parts, any other `*` and `+` exactly one. */
/** @typedef {{ key: Key, data: any, at?: string, headers?: Record<string, string>, time?: number, replayed?: boolean }} Message */
/** @typedef {{ reason: string, count: number | null, since: number, until: number, keys: Key[] | null }} Gap */
/** @typedef {"connecting" | "open" | "closed"} State */
/** @typedef {(message: Message) => void} Listener */
/** @typedef {(message: Message) => any} Responder */
/** @typedef {() => string | Promise<string>} TokenSource */
/** @typedef {{ token?: string | TokenSource, protocols?: string[] }} HubOptions */
/** @typedef {{ history?: number, snapshot?: boolean, gaps?: boolean, signal?: AbortSignal }} SubscribeOptions */

/** Milliseconds: the first bound of the wait between attempts to connect, and the largest. */
const FIRST_WAIT = 500;
const MOST_WAIT = 20_000;
/** Milliseconds that a server may take to answer a ping. */
const PONG_WAIT = 10_000;
/** Messages that wait for a connection. */
const MOST_QUEUED = 1000;
/** Close codes after which coming back is of no use. */
const FINAL = new Set([4400, 4403]);
const IDENTITY = 4401;

/** What the server refuses, or what cannot be sent. */
export class HubError extends Error {
  /**
   * @param {string} code As in the protocol; or "lost": the line was cut before an answer came, "full": too much waits
   *     for a connection, "closed".
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "HubError";
    this.code = code;
  }
}

/**
 * Return whether a pattern matches a key.
 *
 * @param {Key} pattern
 * @param {Key} key
 * @returns {boolean}
 */
export function matches(pattern, key) {
  const last = pattern.length - 1;
  if (pattern[last] === "*" ? key.length < pattern.length : key.length !== pattern.length) return false;
  return pattern.every((part, index) => part === "*" || part === "+" || part === key[index]);
}

/** One subscription: call its listener, or iterate it with `for await`. `close()` ends it. */
export class Subscription {
  /** @type {Message[]} */
  #queue = [];
  /** @type {((result: IteratorResult<Message>) => void)[]} */
  #waiting = [];
  /** @type {Listener | undefined} */
  #listener;
  #end;

  /**
   * @param {number} id
   * @param {Key[]} patterns
   * @param {Listener | undefined} listener
   * @param {SubscribeOptions} options
   * @param {() => void} end
   */
  constructor(id, patterns, listener, options, end) {
    this.id = id;
    this.patterns = patterns;
    this.options = options;
    this.closed = false;
    /** The server has agreed, and what it replays has come: over the next connection it is resumed. */
    this.isKnown = false;
    /** It was asked for over this connection, and not refused. */
    this.isAsked = false;
    /** Resolves when the server has agreed; rejects with its `HubError`. @type {Promise<void>} */
    this.ready = new Promise((resolve, reject) => {
      this.agreed = resolve;
      this.refused = reject;
    });
    this.ready.catch(() => {});
    this.#listener = listener;
    this.#end = end;
  }

  /** @param {Message} message */
  deliver(message) {
    if (this.closed) return;
    if (this.#listener) {
      try {
        this.#listener(message);
      } catch (error) {
        reportError(error);
      }
    } else if (this.#waiting.length) {
      /** @type {any} */ (this.#waiting.shift())({ value: message, done: false });
    } else {
      this.#queue.push(message);
    }
  }

  /** Get nothing more. Closing twice is safe. */
  close() {
    if (this.closed) return;
    this.closed = true;
    for (const resolve of this.#waiting.splice(0)) resolve({ value: undefined, done: true });
    this.#end();
  }

  /** @returns {AsyncIterator<Message>} */
  [Symbol.asyncIterator]() {
    return {
      next: () => {
        const message = this.#queue.shift();
        if (message) return Promise.resolve({ value: message, done: false });
        if (this.closed) return Promise.resolve({ value: undefined, done: true });
        return new Promise((resolve) => this.#waiting.push(resolve));
      },
      return: () => {
        this.close();
        return Promise.resolve({ value: undefined, done: true });
      },
    };
  }
}

/**
 * A hub on the other side of a WebSocket.
 *
 * Events: `state` (`detail` is the state), `gap` (`detail` is `{ gap, subscription }`), `error` (`detail` is a
 * `HubError`: the server has refused something that nobody waits for, or this client for good).
 */
export class Hub extends EventTarget {
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {State} */
  #state = "connecting";
  /** @type {Record<string, number>} */
  #at = {};
  /** @type {Map<number, Subscription>} */
  #subscriptions = new Map();
  /** @type {Map<number, { patterns: Key[], respond: Responder }>} */
  #responders = new Map();
  /** @type {Map<number, { resolve: (frame: any) => void, reject: (error: HubError) => void, isSent: boolean }>} */
  #open = new Map();
  /** @type {{ id: number, frame: any }[]} */
  #queued = [];
  #nextId = 1;
  #attempt = 0;
  #heard = 0;
  #pinged = 0;
  #ticked = 0;
  #pingEvery = 25_000;
  /** @type {any} */
  #timer;
  /** @type {any} */
  #clock;
  /** What is replayed just now: the next messages, for whom, and what happens then. @type {{ left: number, to: Subscription[] | null, then: () => void } | null} */
  #replay = null;

  /**
   * Connect, from now on.
   *
   * @param {string | URL} url Of the endpoint: `ws:`, `wss:`, or relative to the page.
   * @param {HubOptions} [options] `token`: sent first, or a function that returns it, called for each connection.
   */
  constructor(url, options = {}) {
    super();
    const base = globalThis.location?.href;
    this.url = new URL(url, base);
    this.url.protocol = this.url.protocol.replace(/^http/, "ws");
    this.options = options;
    this.#connect();
    this.#clock = setInterval(() => this.#look(), 1000);
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
  }

  /** "connecting", "open" or "closed". */
  get state() {
    return this.#state;
  }

  /**
   * Get the messages of some patterns, from now on, over every connection.
   *
   * @param {Key[]} patterns
   * @param {Listener} [listener] Called with each message; without one, iterate what is returned.
   * @param {SubscribeOptions} [options] `history`: begin with the last messages of each key. `snapshot`: begin with the
   *     last one, again after a gap. `signal` ends it.
   * @returns {Subscription}
   */
  subscribe(patterns, listener, options = {}) {
    const id = this.#nextId++;
    const subscription = new Subscription(id, patterns, listener, options, () => this.#unsubscribe(id));
    this.#subscriptions.set(id, subscription);
    options.signal?.addEventListener("abort", () => subscription.close(), { once: true });
    if (options.signal?.aborted) subscription.close();
    else if (this.#state === "open") this.#subscribe(subscription);
    return subscription;
  }

  /**
   * Publish a message; while there is no connection it waits, in order, with at most 999 others.
   *
   * @param {Key} key
   * @param {any} data
   * @param {{ headers?: Record<string, string>, confirm?: number }} [options] `confirm`: resolve when everybody has
   *     finished with it, within so many seconds.
   * @returns {Promise<number>} How many got it.
   */
  async publish(key, data, options = {}) {
    return (await this.#ask({ type: "publish", key, data, ...options })).count;
  }

  /**
   * Ask whoever responds to a key.
   *
   * @param {Key} key
   * @param {any} data
   * @param {{ headers?: Record<string, string>, timeout?: number }} [options] `timeout` in seconds.
   * @returns {Promise<any>} The reply.
   */
  async request(key, data, options = {}) {
    return (await this.#ask({ type: "request", key, data, ...options })).data;
  }

  /**
   * Respond to requests of some patterns with what a function returns, or what its promise resolves to.
   *
   * @param {Key[]} patterns
   * @param {Responder} respond
   * @returns {() => void} Ends it.
   */
  respond(patterns, respond) {
    const id = this.#nextId++;
    this.#responders.set(id, { patterns, respond });
    if (this.#state === "open") this.#send({ type: "respond", id, patterns });
    return () => {
      if (this.#responders.delete(id) && this.#state === "open") this.#unsubscribe(id);
    };
  }

  /** Disconnect for good. Whatever waits is rejected. */
  close() {
    if (this.#state === "closed") return;
    clearTimeout(this.#timer);
    clearInterval(this.#clock);
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    this.#socket?.close();
    this.#socket = null;
    this.#change("closed");
    this.#reject(() => true, new HubError("closed", "this hub is closed"));
    for (const subscription of [...this.#subscriptions.values()]) subscription.close();
  }

  // Connecting

  async #connect() {
    if (this.#state === "closed") return;
    this.#change("connecting");
    let token;
    try {
      token = typeof this.options.token === "function" ? await this.options.token() : this.options.token;
    } catch (error) {
      this.#complain(new HubError("token", String(error)));
      this.#again();
      return;
    }
    // @ts-ignore: it may have been closed meanwhile
    if (this.#state === "closed") return;
    const socket = new WebSocket(this.url, this.options.protocols ?? ["hubsub.v1"]);
    this.#socket = socket;
    this.#heard = Date.now();
    this.#pinged = 0;
    socket.onopen = () => {
      if (token !== undefined) this.#hello(token);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#heard = Date.now();
      this.#pinged = 0;
      for (const frame of [].concat(JSON.parse(data))) this.#follow(frame, token);
    };
    socket.onclose = ({ code }) => {
      if (socket === this.#socket) this.#lost(code);
    };
  }

  /** @param {number} code */
  #lost(code) {
    this.#socket = null;
    for (const subscription of this.#subscriptions.values()) subscription.isAsked = false;
    this.#reject(({ isSent }) => isSent, new HubError("lost", "the line was cut before an answer came"));
    if (FINAL.has(code) || (code === IDENTITY && typeof this.options.token !== "function")) {
      this.#complain(new HubError("refused", `the server has refused this client: ${code}`));
      this.close();
    } else {
      if (this.#state !== "closed") this.#change("connecting");
      this.#again();
    }
  }

  #again() {
    // The whole of the wait is random, so that a thousand clients do not come back at once.
    const wait = Math.random() * Math.min(MOST_WAIT, FIRST_WAIT * 2 ** this.#attempt++);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), wait);
  }

  #wake = () => {
    if (this.#state === "connecting" && !this.#socket) {
      clearTimeout(this.#timer);
      this.#connect();
    } else {
      this.#look();
    }
  };

  /** See whether the line is alive. Ticks prove nothing: a tab that slept gets none, and its line may be good. */
  #look() {
    const now = Date.now();
    const slept = now - this.#ticked > 5000;
    this.#ticked = now;
    if (!this.#socket) return;
    if (this.#pinged && !slept && now - this.#pinged > PONG_WAIT) {
      const socket = this.#socket;
      this.#lost(1006);
      socket.close();
    } else if (slept || (!this.#pinged && now - this.#heard > this.#pingEvery)) {
      this.#pinged = now;
      if (this.#state === "open") this.#send({ type: "ping" });
    }
  }

  /** @param {string | undefined} token */
  #hello(token) {
    const known = [...this.#subscriptions.values()].filter(({ isKnown }) => isKnown);
    /** @type {any} */
    const frame = { type: "hello" };
    if (token !== undefined) frame.token = token;
    if (known.length) {
      for (const subscription of known) subscription.isAsked = true;
      const subscriptions = known.map(({ id, patterns, options }) => ({ id, patterns, gaps: options.gaps ?? true }));
      frame.resume = { at: this.#at, subscriptions };
    }
    if (token !== undefined || known.length) this.#send(frame);
  }

  /**
   * @param {any} frame
   * @param {string | undefined} token
   */
  #welcome(frame, token) {
    this.#attempt = 0;
    this.#replay = null;
    this.#pingEvery = frame.ping * 1000;
    if (token === undefined) this.#hello(undefined);
    // Whoever resumes is not there yet: what it missed is still to come.
    if (![...this.#subscriptions.values()].some(({ isKnown }) => isKnown)) this.#advance(frame.at);
    this.#change("open");
    for (const subscription of this.#subscriptions.values()) {
      if (!subscription.isKnown) this.#subscribe(subscription);
    }
    for (const [id, { patterns }] of this.#responders) this.#send({ type: "respond", id, patterns });
    for (const { id, frame: queued } of this.#queued.splice(0)) {
      const open = this.#open.get(id);
      if (open) {
        open.isSent = true;
        this.#send(queued);
      }
    }
  }

  // Frames

  /** @param {any} frame */
  #send(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  /** @param {Subscription} subscription */
  #subscribe(subscription) {
    const { id, patterns, options } = subscription;
    const { history, snapshot, gaps } = options;
    subscription.isAsked = true;
    this.#send({ type: "subscribe", id, patterns, history, snapshot, gaps });
  }

  /** @param {number} of */
  #unsubscribe(of) {
    const isAsked = this.#subscriptions.get(of)?.isAsked ?? true;
    this.#subscriptions.delete(of);
    if (this.#state === "open" && isAsked) this.#send({ type: "unsubscribe", id: this.#nextId++, of });
  }

  /**
   * @param {any} frame
   * @returns {Promise<any>}
   */
  #ask(frame) {
    if (this.#state === "closed") return Promise.reject(new HubError("closed", "this hub is closed"));
    const id = this.#nextId++;
    frame = { ...frame, id };
    const isOpen = this.#state === "open";
    if (!isOpen && this.#queued.length >= MOST_QUEUED) {
      return Promise.reject(new HubError("full", `${MOST_QUEUED} messages wait for a connection`));
    }
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject, isSent: isOpen });
      if (isOpen) this.#send(frame);
      else this.#queued.push({ id, frame });
    });
  }

  /**
   * @param {(open: { isSent: boolean }) => boolean} which
   * @param {HubError} error
   */
  #reject(which, error) {
    for (const [id, open] of [...this.#open]) {
      if (which(open)) {
        this.#open.delete(id);
        open.reject(error);
      }
    }
    this.#queued = this.#queued.filter(({ id }) => this.#open.has(id));
  }

  /**
   * @param {any} frame
   * @param {string | undefined} token
   */
  #follow(frame, token) {
    switch (frame.type) {
      case undefined:
        this.#deliver(frame);
        break;
      case "welcome":
        this.#welcome(frame, token);
        break;
      case "ok":
        this.#answer(frame);
        break;
      case "error":
        this.#refused(frame);
        break;
      case "gap": {
        const { type, of, ...gap } = frame;
        const subscription = this.#subscriptions.get(of);
        if (subscription) this.dispatchEvent(new CustomEvent("gap", { detail: { gap, subscription } }));
        break;
      }
      case "request":
        this.#respond(frame);
        break;
      case "ping":
        this.#send({ type: "pong" });
        break;
    }
  }

  /** @param {Message} message */
  #deliver(message) {
    if (message.at) {
      const colon = message.at.lastIndexOf(":");
      this.#advance({ [message.at.slice(0, colon)]: Number(message.at.slice(colon + 1)) });
    }
    const replay = this.#replay;
    for (const subscription of replay?.to ?? [...this.#subscriptions.values()]) {
      if (subscription.patterns.some((pattern) => matches(pattern, message.key))) subscription.deliver(message);
    }
    if (replay && --replay.left === 0) {
      this.#replay = null;
      replay.then();
    }
  }

  /** @param {Record<string, number>} at */
  #advance(at) {
    for (const [origin, number] of Object.entries(at ?? {})) {
      if (!(this.#at[origin] >= number)) this.#at[origin] = number;
    }
  }

  /** @param {any} frame */
  #answer(frame) {
    const subscription = this.#subscriptions.get(frame.id);
    subscription?.agreed();
    const then = () => {
      this.#advance(frame.at);
      if (subscription) subscription.isKnown = true;
    };
    if (frame.replayed) this.#replay = { left: frame.replayed, to: subscription ? [subscription] : null, then };
    else then();
    this.#open.get(frame.id)?.resolve(frame);
    this.#open.delete(frame.id);
  }

  /** @param {any} frame */
  #refused(frame) {
    const error = new HubError(frame.code, frame.message);
    const open = this.#open.get(frame.id);
    const subscription = this.#subscriptions.get(frame.id);
    if (open) {
      this.#open.delete(frame.id);
      open.reject(error);
    } else if (subscription) {
      subscription.isAsked = false;
      subscription.refused(error);
      subscription.close();
      this.#complain(error);
    } else {
      this.#complain(error);
    }
  }

  /** @param {any} frame */
  async #respond(frame) {
    const { id, key } = frame;
    for (const { patterns, respond } of this.#responders.values()) {
      if (!patterns.some((pattern) => matches(pattern, key))) continue;
      try {
        this.#send({ type: "reply", id, data: (await respond(frame)) ?? null });
      } catch (error) {
        this.#send({ type: "reply", id, error: String(error) });
      }
      return;
    }
    this.#send({ type: "reply", id, error: "nobody responds here any more" });
  }

  /** @param {State} state */
  #change(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  /** @param {HubError} error */
  #complain(error) {
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }
}
