/**
 * hubsub in the browser: one ES module without dependencies, which speaks `hubsub.v1`.
 *
 *     import { Hub } from "/hubsub.js";
 *     const hub = new Hub("/ws");
 *     hub.subscribe([["room", "*"]], (message) => console.log(message.key, message.data));
 *     await hub.publish(["room", "1"], { text: "hello" });
 *
 * It connects again by itself and resumes where it was; where messages may be missing, it dispatches a `gap`.
 *
 * @module
 */

/** @typedef {string[]} Key A key, or a pattern: a last `*` is one or more parts, any other `*` and `+` exactly one. */
/** @typedef {{ key: Key, data: any, at?: string, headers?: Record<string, string>, time?: number, replayed?: boolean }} Message */
/** @typedef {{ reason: string, count: number | null, since: number, until: number, keys: Key[] | null }} Gap */
/** @typedef {"connecting" | "open" | "closed"} State */
/** @typedef {(message: Message) => void} Listener */
/** @typedef {(request: Message) => any} Respond */
/** @typedef {() => string | Promise<string>} TokenSource */
/** @typedef {{ state: CustomEvent<State>, gap: CustomEvent<{ gap: Gap, subscription: Subscription }>, error: CustomEvent<HubError> }} HubEvents */
/**
 * @typedef {object} HubOptions
 * @property {string | TokenSource} [token] Sent first; a function is called for each connection.
 * @property {boolean | string} [shared] One connection for all tabs; a string: for all tabs with the same string.
 * @property {string | URL} [worker] With `shared`: where this module is served, if a bundler has moved it.
 * @property {string[]} [protocols] Subprotocols, `["hubsub.v1"]` by default.
 */
/**
 * @typedef {object} SubscribeOptions
 * @property {number} [history] Begin with so many of the last messages of each key.
 * @property {boolean} [snapshot] Begin with the last message of each key, and again after a gap.
 * @property {boolean} [gaps] False: no `gap` events of this subscription.
 * @property {AbortSignal} [signal] Ends it.
 */
/**
 * What a line calls for one subscription.
 * @internal
 * @typedef {object} Sink
 * @property {(message: Message) => void} deliver
 * @property {(gap: Gap) => void} gap
 * @property {() => void} agreed
 * @property {(error: HubError) => void} refused
 */
/**
 * What a line calls for one responder; `answer` returns the reply as JSON.
 * @internal
 * @typedef {object} Answering
 * @property {(request: Message) => Promise<string>} answer
 * @property {() => void} agreed
 * @property {(error: HubError) => void} refused
 */
/**
 * What a hub stands on: a connection of its own, or one that tabs share.
 * @internal
 * @typedef {object} Line
 * @property {State} state
 * @property {(patterns: Key[], options: SubscribeOptions, sink: Sink) => () => void} subscribe
 * @property {(patterns: Key[], answering: Answering) => () => void} respond
 * @property {(json: string, isQuick: boolean) => Promise<any>} ask
 * @property {() => void} close
 */
/**
 * Whose line it is.
 * @internal
 * @typedef {{ changed: (state: State) => void, failed: (error: HubError) => void }} Owner
 */
/**
 * A subscription or a responder of a connection.
 * @internal
 * @typedef {object} Entry
 * @property {"subscribe" | "respond"} type
 * @property {number} id
 * @property {Key[]} patterns
 * @property {SubscribeOptions} options
 * @property {Sink | Answering} owner
 * @property {boolean} isAsked The server was asked for it over this connection.
 * @property {boolean} isAgreed The server has agreed, over this connection.
 * @property {boolean} isKnown The server has agreed once, and what it replayed has come: the next connection resumes it.
 * @property {boolean} isEnded
 */

/** Milliseconds: the first bound of the wait between attempts to connect, and the largest. */
const FIRST_WAIT = 500;
const MOST_WAIT = 20_000;
/** Milliseconds that a server may take for its welcome and, at most, for answering a ping. */
const PONG_WAIT = 10_000;
/** Milliseconds between two ticks after which a tab was asleep, or is throttled. */
const LATE = 5000;
/** Messages that wait for a connection, or for the rate that the server allows. */
const MOST_QUEUED = 1000;
/** Messages that wait for an iteration. */
const MOST_UNREAD = 1000;
/** Close codes after which coming back is of no use. */
const FINAL = new Set([4400, 4403]);
const IDENTITY = 4401;
const NO_LIMIT = 2 ** 53;
/** The name of the shared worker. What tabs and worker say to each other changes with the number. */
const WORKER = "hubsub 1";
/** Milliseconds that the worker may take to open, and a tab to return a token. */
const WORKER_WAIT = 5000;
const TOKEN_WAIT = 10_000;
/** A tab that has not read so many messages for so many milliseconds is asleep; so is one beyond the larger number. */
const ASLEEP_MESSAGES = 1000;
const ASLEEP_WAIT = 5000;
const ASLEEP_MOST = 10_000;

/** What the server refuses, or what cannot be sent. */
export class HubError extends Error {
  /**
   * @param {string} code As in the protocol; or "lost": the connection was lost before an answer came, "full": too much
   *     waits, "closed": this hub is closed, "token": there is no valid token, "refused": the server refuses this client.
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

/**
 * @param {Key[]} patterns
 * @param {Key} key
 */
const matchesAny = (patterns, key) => patterns.some((pattern) => matches(pattern, key));

/**
 * The server counts malformed frames, and disconnects at the third: a wrong key is refused here.
 *
 * @param {any} key
 */
function checkKey(key) {
  if (!Array.isArray(key) || !key.length || !key.every((part) => typeof part === "string")) {
    throw new TypeError(`a key is an array of strings, as in ["room", "1"], not ${JSON.stringify(key)}`);
  }
}

/** @param {any} patterns */
function checkPatterns(patterns) {
  if (!Array.isArray(patterns) || !patterns.length) {
    throw new TypeError(`patterns is an array of keys, as in [["room", "*"]], not ${JSON.stringify(patterns)}`);
  }
  patterns.forEach(checkKey);
}

const closedError = () => new HubError("closed", "this hub is closed");
const lostError = () => new HubError("lost", "the connection was lost before an answer came");

/**
 * A gap of our own.
 *
 * @param {string} reason
 * @param {number | null} count
 * @param {number} since Milliseconds.
 * @returns {Gap}
 */
const gapSince = (reason, count, since) => ({
  reason,
  count,
  since: since / 1000,
  until: Date.now() / 1000,
  keys: null,
});

/** One subscription: it calls its listener, or is iterated with `for await`. `close()` ends it. */
export class Subscription {
  /** @type {Message[]} */
  #queue = [];
  /** @type {((result: IteratorResult<Message>) => void)[]} */
  #waiting = [];
  #dropped = 0;
  #droppedSince = 0;
  /** @type {Listener | undefined} */
  #listener;
  /** @type {(gap: Gap) => void} */
  #gap;
  /** @type {() => void} */
  #end = () => {};
  /** @type {() => void} */
  #agreed = () => {};
  /** @type {(error: HubError) => void} */
  #refused = () => {};

  /**
   * @private
   * @param {Key[]} patterns
   * @param {Listener | undefined} listener
   * @param {SubscribeOptions} options
   * @param {(gap: Gap) => void} gap
   * @param {((sink: Sink) => () => void) | null} begin Returns what ends it; null if it is over before it begins.
   * @param {(error: HubError) => void} failed
   */
  constructor(patterns, listener, options, gap, begin, failed) {
    /** @readonly */
    this.patterns = patterns;
    /** @readonly */
    this.options = options;
    this.closed = false;
    /** Resolves when the server has agreed; rejects with its `HubError`. @type {Promise<void>} @readonly */
    this.ready = new Promise((resolve, reject) => {
      this.#agreed = resolve;
      this.#refused = reject;
    });
    this.ready.catch(() => {});
    this.#listener = listener;
    this.#gap = gap;
    const { signal } = options;
    if (!begin || signal?.aborted) {
      this.close();
      return;
    }
    const end = begin({
      deliver: (message) => this.#deliver(message),
      gap: (missed) => this.closed || this.#gap(missed),
      agreed: this.#agreed,
      refused: (error) => {
        this.#refused(error);
        this.close();
        failed(error);
      },
    });
    const abort = () => this.close();
    signal?.addEventListener("abort", abort);
    this.#end = () => {
      signal?.removeEventListener("abort", abort);
      end();
    };
  }

  /** @param {Message} message */
  #deliver(message) {
    if (this.closed) return;
    if (this.#listener) {
      try {
        this.#listener(message);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    } else if (this.#waiting.length) {
      /** @type {any} */ (this.#waiting.shift())({ value: message, done: false });
    } else {
      this.#queue.push(message);
      if (this.#queue.length > MOST_UNREAD) {
        this.#queue.shift();
        if (this.#dropped++ === 0) this.#droppedSince = Date.now();
      }
    }
  }

  /** Get nothing more. Closing twice is safe. */
  close() {
    if (this.closed) return;
    this.closed = true;
    for (const resolve of this.#waiting.splice(0)) resolve({ value: undefined, done: true });
    this.#refused(closedError());
    this.#end();
  }

  /** @returns {AsyncIterator<Message>} */
  [Symbol.asyncIterator]() {
    return {
      next: () => {
        if (this.#dropped) {
          const gap = gapSince("drop_oldest", this.#dropped, this.#droppedSince);
          this.#dropped = 0;
          this.#gap(gap);
        }
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

/** A function that responds to requests. `close()` ends it. */
export class Responder {
  #end = () => {};

  /**
   * @private
   * @param {Key[]} patterns
   * @param {Respond} respond
   * @param {((answering: Answering) => () => void) | null} begin Returns what ends it; null if it is over before it begins.
   * @param {(error: HubError) => void} failed
   */
  constructor(patterns, respond, begin, failed) {
    /** @readonly */
    this.patterns = patterns;
    this.closed = false;
    /** Resolves when the server has agreed; rejects with its `HubError`. @type {Promise<void>} @readonly */
    this.ready = new Promise((resolve, reject) => {
      const end = begin?.({
        answer: async (request) => JSON.stringify(await respond(request)) ?? "null",
        agreed: resolve,
        refused: (error) => {
          reject(error);
          this.close();
          failed(error);
        },
      });
      this.#end = () => {
        reject(closedError());
        end?.();
      };
    });
    this.ready.catch(() => {});
    if (!begin) this.close();
  }

  /** Respond no longer. Closing twice is safe. */
  close() {
    if (this.closed) return;
    this.closed = true;
    this.#end();
  }
}

/**
 * A hub on the other side of a WebSocket.
 *
 * Events: `state` (`detail` is the state), `gap` (`detail` is `{ gap, subscription }`), `error` (`detail` is a
 * `HubError`: the server has refused something that nobody waits for, or this client for good).
 */
export class Hub extends EventTarget {
  /** @type {Line} */
  #line;
  /** @type {State} */
  #state = "connecting";
  /** @type {Set<Subscription | Responder>} */
  #handles = new Set();

  /**
   * Connect, from now on.
   *
   * @param {string | URL} url Of the endpoint: `ws:`, `wss:`, or relative to the page.
   * @param {HubOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    this.url = new URL(url, globalThis.location?.href);
    this.url.protocol = this.url.protocol.replace(/^http/, "ws");
    this.options = options;
    /** @type {Owner} */
    const owner = { changed: (state) => this.#changed(state), failed: this.#failed };
    /** @type {Line | null} */
    const shared = options.shared ? SharedLine.open(this.url, options, owner) : null;
    this.#line = shared ?? new Connection(this.url, options, owner);
  }

  /** "connecting", "open" or "closed". */
  get state() {
    return this.#state;
  }

  /**
   * As of any `EventTarget`, with the types of this hub's events.
   *
   * @template {keyof HubEvents} K
   * @param {K} type
   * @param {((event: HubEvents[K]) => void) | EventListenerObject | null} listener
   * @param {boolean | AddEventListenerOptions} [options]
   */
  addEventListener(type, listener, options) {
    super.addEventListener(type, /** @type {EventListener} */ (listener), options);
  }

  /**
   * Get the messages of some patterns, from now on, over every connection.
   *
   * @param {Key[]} patterns
   * @param {Listener} [listener] Called with each message; without one, iterate what is returned. Beyond 1000 messages
   *     that were not iterated, the oldest is dropped: a `gap`.
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  subscribe(patterns, listener, options = {}) {
    checkPatterns(patterns);
    const { history, snapshot, gaps } = options;
    /** @type {(sink: Sink) => () => void} */
    const begin = (sink) => {
      const end = this.#line.subscribe(patterns, { history, snapshot, gaps }, sink);
      return () => {
        this.#handles.delete(subscription);
        end();
      };
    };
    /** @param {Gap} gap */
    const missed = (gap) => this.dispatchEvent(new CustomEvent("gap", { detail: { gap, subscription } }));
    const isClosed = this.#state === "closed";
    /** @type {Subscription} */ // @ts-ignore: nobody else makes them
    const subscription = new Subscription(patterns, listener, options, missed, isClosed ? null : begin, this.#failed);
    if (!subscription.closed) this.#handles.add(subscription);
    return subscription;
  }

  /**
   * Publish a message; while there is no connection it waits, in order, with at most 999 others.
   *
   * @param {Key} key
   * @param {any} data What `JSON.stringify` accepts.
   * @param {{ headers?: Record<string, string>, confirm?: number }} [options] `confirm`: resolve when everybody has
   *     finished with it, within so many seconds.
   * @returns {Promise<number>} How many got it.
   */
  async publish(key, data, { headers, confirm } = {}) {
    checkKey(key);
    const json = JSON.stringify({ type: "publish", key, data, headers, confirm });
    return (await this.#line.ask(json, confirm === undefined)).count;
  }

  /**
   * Ask whoever responds to a key.
   *
   * @param {Key} key
   * @param {any} data
   * @param {{ headers?: Record<string, string>, timeout?: number }} [options] `timeout` in seconds.
   * @returns {Promise<any>} The reply.
   */
  async request(key, data, { headers, timeout } = {}) {
    checkKey(key);
    return (await this.#line.ask(JSON.stringify({ type: "request", key, data, headers, timeout }), false)).data;
  }

  /**
   * Respond to requests of some patterns with what a function returns, or what its promise resolves to.
   *
   * @param {Key[]} patterns
   * @param {Respond} respond If it throws, the request fails.
   * @returns {Responder}
   */
  respond(patterns, respond) {
    checkPatterns(patterns);
    /** @type {(answering: Answering) => () => void} */
    const begin = (answering) => {
      const end = this.#line.respond(patterns, answering);
      return () => {
        this.#handles.delete(responder);
        end();
      };
    };
    const isClosed = this.#state === "closed";
    /** @type {Responder} */ // @ts-ignore: nobody else makes them
    const responder = new Responder(patterns, respond, isClosed ? null : begin, this.#failed);
    if (!responder.closed) this.#handles.add(responder);
    return responder;
  }

  /** Disconnect for good. Whatever waits is rejected. Closing twice is safe. */
  close() {
    this.#line.close();
    this.#changed("closed");
  }

  /** @param {State} state */
  #changed(state) {
    if (state === this.#state || this.#state === "closed") return;
    this.#state = state;
    if (state === "closed") for (const handle of [...this.#handles]) handle.close();
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  /** @param {HubError} error */
  #failed = (error) => {
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  };
}

/** Says when one more may be sent: so many at once, and so many a second after that. */
class Bucket {
  #since = performance.now();
  #left;

  /**
   * @param {number} rate A second.
   * @param {number} burst
   */
  constructor(rate, burst) {
    // A little slower than the server counts.
    this.rate = (rate * 0.95) / 1000;
    this.burst = this.#left = burst;
  }

  /** Take one, and return 0; or return the milliseconds until there is one. */
  wait() {
    const now = performance.now();
    this.#left = Math.min(this.burst, this.#left + (now - this.#since) * this.rate);
    this.#since = now;
    if (this.#left < 1) return Math.ceil((1 - this.#left) / this.rate);
    this.#left--;
    return 0;
  }
}

/**
 * One WebSocket after the other, for one hub or for all tabs.
 *
 * @internal
 * @implements {Line}
 */
class Connection {
  /** @type {State} */
  state = "connecting";
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Record<string, number>} */
  #at = {};
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  /** @type {Map<number, { resolve: (frame: any) => void, reject: (error: HubError) => void, isQuick: boolean }>} */
  #sent = new Map();
  /** @type {{ json: string, isQuick: boolean, resolve: (frame: any) => void, reject: (error: HubError) => void }[]} */
  #queued = [];
  /** Sent, and to be answered at once. */
  #quick = 0;
  #bucket = new Bucket(NO_LIMIT, NO_LIMIT);
  #mostBytes = NO_LIMIT;
  #nextId = 1;
  #attempt = 0;
  /** @type {number | undefined} */
  #retry;
  /** @type {string | undefined} */
  #refusedToken;
  #heard = 0;
  #pinged = 0;
  #ticked = Date.now();
  #isSuspected = false;
  #pingEvery = 25_000;
  /** @type {any} */
  #timer;
  /** @type {any} */
  #pumping;
  /** @type {any} */
  #clock;
  /** What is replayed just now: so many frames are left, of one subscription's history or of all. @type {{ left: number, entry: Entry | undefined, held: Message[], at: Record<string, number> } | null} */
  #replay = null;
  /** Whose snapshot follows, after a gap. @type {Entry | undefined} */
  #snapshotOf;

  /**
   * @param {URL} url
   * @param {HubOptions} options
   * @param {Owner} owner
   */
  constructor(url, options, owner) {
    this.url = url;
    this.options = options;
    this.owner = owner;
    this.#connect();
    this.#clock = setInterval(() => this.#look(), 1000);
    globalThis.addEventListener?.("online", this.wake);
    globalThis.document?.addEventListener("visibilitychange", this.wake);
  }

  /**
   * @param {Key[]} patterns
   * @param {SubscribeOptions} options
   * @param {Sink} sink
   */
  subscribe(patterns, options, sink) {
    return this.#add("subscribe", patterns, options, sink);
  }

  /**
   * @param {Key[]} patterns
   * @param {Answering} answering
   */
  respond(patterns, answering) {
    return this.#add("respond", patterns, {}, answering);
  }

  /**
   * @param {string} json A frame without its `id`.
   * @param {boolean} isQuick It is answered at once.
   * @returns {Promise<any>}
   */
  ask(json, isQuick) {
    if (this.state === "closed") return Promise.reject(closedError());
    if (this.#queued.length >= MOST_QUEUED) {
      const what = this.state === "open" ? "the rate that the server allows" : "a connection";
      return Promise.reject(new HubError("full", `${MOST_QUEUED} messages wait for ${what}`));
    }
    return new Promise((resolve, reject) => {
      this.#queued.push({ json, isQuick, resolve, reject });
      this.#pump();
    });
  }

  close() {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    clearTimeout(this.#pumping);
    clearInterval(this.#clock);
    globalThis.removeEventListener?.("online", this.wake);
    globalThis.document?.removeEventListener("visibilitychange", this.wake);
    const socket = this.#socket;
    this.#socket = null;
    this.#entries.clear();
    this.#change("closed");
    socket?.close();
    for (const { reject } of [...this.#sent.values(), ...this.#queued.splice(0)]) reject(closedError());
    this.#sent.clear();
  }

  // Connecting

  async #connect() {
    this.#timer = undefined;
    this.#change("connecting");
    // Whoever makes a hub listens to its events after that.
    await null;
    let token;
    try {
      token = typeof this.options.token === "function" ? await this.options.token() : this.options.token;
      if (token !== undefined && token === this.#refusedToken) throw new Error("the server has refused this token");
    } catch (error) {
      if (this.state === "closed") return;
      this.owner.failed(new HubError("token", error instanceof Error ? error.message : String(error)));
      this.#again();
      return;
    }
    if (this.state === "closed") return;
    const socket = new WebSocket(this.url, this.options.protocols ?? ["hubsub.v1"]);
    this.#socket = socket;
    // The welcome answers this.
    this.#heard = this.#pinged = Date.now();
    this.#isSuspected = false;
    this.#retry = undefined;
    socket.onopen = () => {
      if (token !== undefined) this.#hello(token);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#heard = Date.now();
      this.#pinged = 0;
      this.#isSuspected = false;
      for (const frame of [].concat(JSON.parse(data))) {
        if (socket === this.#socket) this.#follow(frame, token);
      }
    };
    socket.onclose = ({ code }) => {
      if (socket === this.#socket) this.#lost(code, token);
    };
  }

  /**
   * @param {number} code
   * @param {string} [token]
   */
  #lost(code, token) {
    this.#socket = null;
    this.#replay = null;
    this.#snapshotOf = undefined;
    for (const entry of [...this.#entries.values()]) {
      if (entry.isEnded) this.#entries.delete(entry.id);
      entry.isAsked = entry.isAgreed = false;
    }
    this.#quick = 0;
    for (const { reject } of this.#sent.values()) reject(lostError());
    this.#sent.clear();
    if (FINAL.has(code) || (code === IDENTITY && typeof this.options.token !== "function")) {
      this.owner.failed(new HubError("refused", `the server has refused this client, code ${code}`));
      this.close();
      return;
    }
    if (code === IDENTITY) this.#refusedToken = token;
    this.#change("connecting");
    this.#again();
  }

  #again() {
    // The whole of the wait is random, so that a thousand clients do not come back at once.
    const wait = this.#retry ?? Math.random() * Math.min(MOST_WAIT, FIRST_WAIT * 2 ** this.#attempt++);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), wait);
  }

  /** The page is seen again, or the network is back: do not wait any longer. @param {Event} [event] */
  wake = (event) => {
    if (event?.type === "visibilitychange" && globalThis.document?.visibilityState === "hidden") return;
    if (this.state === "connecting" && !this.#socket && this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#connect();
    } else {
      this.#look();
    }
  };

  /** See whether the line is alive. Ticks prove nothing: a tab that slept had none, and its line may be good. */
  #look() {
    const now = Date.now();
    const isLate = now - this.#ticked > LATE;
    this.#ticked = now;
    if (!this.#socket) return;
    if (this.#pinged) {
      const wait = this.state === "open" ? Math.min(PONG_WAIT, this.#pingEvery) : PONG_WAIT;
      if (now - this.#pinged <= wait) return;
      if (isLate && !this.#isSuspected) {
        // What came while the tab slept is still to be handled: the next tick decides.
        this.#isSuspected = true;
        return;
      }
      const socket = this.#socket;
      this.#lost(1006);
      socket.close();
    } else if (isLate || now - this.#heard > this.#pingEvery) {
      this.#pinged = now;
      this.#send({ type: "ping" });
    }
  }

  /** @param {string | undefined} token */
  #hello(token) {
    const known = [...this.#entries.values()].filter(({ isKnown, isEnded }) => isKnown && !isEnded);
    for (const entry of known) entry.isAsked = true;
    const subscriptions = known.map(({ id, patterns, options: { snapshot, gaps } }) => ({ id, patterns, snapshot, gaps }));
    const resume = known.length ? { at: this.#at, subscriptions } : undefined;
    if (token !== undefined || resume) this.#send({ type: "hello", token, resume });
  }

  /**
   * @param {any} frame
   * @param {string | undefined} token
   */
  #welcome(frame, token) {
    this.#attempt = 0;
    this.#refusedToken = undefined;
    this.#pingEvery = frame.ping * 1000;
    const { frame_bytes, publishes_per_second, publish_burst } = frame.limits ?? {};
    this.#mostBytes = frame_bytes ?? NO_LIMIT;
    this.#bucket = new Bucket(publishes_per_second ?? NO_LIMIT, publish_burst ?? NO_LIMIT);
    if (token === undefined) this.#hello(undefined);
    // Whoever resumes is not there yet: what it missed is still to come.
    if (![...this.#entries.values()].some(({ isKnown }) => isKnown)) this.#at = { ...frame.at };
    for (const entry of [...this.#entries.values()]) {
      if (!entry.isAsked) this.#begin(entry);
    }
    this.#change("open");
    this.#pump();
  }

  // What a client asks for

  /**
   * @param {"subscribe" | "respond"} type
   * @param {Key[]} patterns
   * @param {SubscribeOptions} options
   * @param {Sink | Answering} owner
   * @returns {() => void} Ends it.
   */
  #add(type, patterns, options, owner) {
    const id = this.#nextId++;
    const none = { isAsked: false, isAgreed: false, isKnown: false, isEnded: false };
    /** @type {Entry} */
    const entry = { type, id, patterns, options, owner, ...none };
    this.#entries.set(id, entry);
    if (this.state === "open") this.#begin(entry);
    return () => {
      if (entry.isEnded) return;
      entry.isEnded = true;
      // One that may yet be refused ends when that is known: the server counts it as malformed to end what is not.
      if (!entry.isAsked) this.#entries.delete(id);
      else if (entry.isAgreed) this.#unsubscribe(entry);
    };
  }

  /** @param {Entry} entry */
  #begin(entry) {
    const { type, id, patterns, options } = entry;
    entry.isAsked = true;
    this.#send({ type, id, patterns, ...options });
  }

  /** @param {Entry} entry */
  #unsubscribe({ id }) {
    if (this.#entries.delete(id)) this.#send({ type: "unsubscribe", id: this.#nextId++, of: id });
  }

  /** Send what waits, as fast as the server allows. */
  #pump() {
    while (this.state === "open" && this.#queued.length) {
      // Those that a slow line holds back arrive all at once.
      if (this.#quick >= this.#bucket.burst) return;
      const wait = this.#bucket.wait();
      if (wait) {
        clearTimeout(this.#pumping);
        this.#pumping = setTimeout(() => this.#pump(), wait);
        return;
      }
      const { json, ...open } = /** @type {any} */ (this.#queued.shift());
      const id = this.#nextId++;
      const text = `{"id":${id},${json.slice(1)}`;
      if (this.#isTooLarge(text)) {
        open.reject(new HubError("too-large", `a frame may have ${this.#mostBytes} bytes`));
        continue;
      }
      if (open.isQuick) this.#quick++;
      this.#sent.set(id, open);
      this.#socket?.send(text);
    }
  }

  /** @param {string} text */
  #isTooLarge(text) {
    // A character has at most three bytes for each of its units.
    return text.length * 3 > this.#mostBytes && new TextEncoder().encode(text).length > this.#mostBytes;
  }

  /** @param {any} frame */
  #send(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  // What the server says

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
        this.#answered(frame);
        break;
      case "error":
        this.#refused(frame);
        break;
      case "gap":
        this.#missed(frame);
        break;
      case "request":
        this.#respond(frame);
        break;
      case "ping":
        this.#send({ type: "pong" });
        break;
      case "bye":
        this.#retry = frame.retry;
        break;
    }
  }

  /** @param {Message} message */
  #deliver(message) {
    if (message.at) {
      const colon = message.at.lastIndexOf(":");
      this.#advance({ [message.at.slice(0, colon)]: Number(message.at.slice(colon + 1)) });
    }
    if (this.#replay?.entry) {
      // All of a history or nothing: if the line is cut in the middle, it comes again.
      this.#replay.held.push(message);
    } else {
      const to = message.replayed ? [this.#snapshotOf] : [...this.#entries.values()];
      for (const entry of to) {
        if (entry?.isAgreed && matchesAny(entry.patterns, message.key)) this.#give(entry, message);
      }
    }
    this.#count();
  }

  /**
   * @param {Entry} entry
   * @param {Message} message
   */
  #give(entry, message) {
    if (entry.type === "subscribe" && !entry.isEnded) /** @type {Sink} */ (entry.owner).deliver(message);
  }

  /** @param {any} frame */
  #missed({ type, of, ...gap }) {
    const entry = this.#entries.get(of);
    this.#snapshotOf = entry?.options.snapshot ? entry : undefined;
    if (entry && !entry.isEnded) /** @type {Sink} */ (entry.owner).gap(gap);
    this.#count();
  }

  /** One frame of what is replayed has come. */
  #count() {
    const replay = this.#replay;
    if (replay && --replay.left === 0) {
      this.#replay = null;
      this.#replayed(replay.entry, replay.held, replay.at);
    }
  }

  /**
   * @param {Entry | undefined} entry
   * @param {Message[]} held
   * @param {Record<string, number>} at
   */
  #replayed(entry, held, at) {
    this.#advance(at);
    if (!entry) return;
    entry.isKnown = entry.type === "subscribe";
    for (const message of held) this.#give(entry, message);
  }

  /** @param {Record<string, number>} at */
  #advance(at) {
    for (const [origin, number] of Object.entries(at ?? {})) {
      if (!(this.#at[origin] >= number)) this.#at[origin] = number;
    }
  }

  /** @param {any} frame */
  #answered(frame) {
    // A position of before, of a server that is gone, would never be resumed again.
    if (frame.resumed === false) this.#at = {};
    const entry = this.#entries.get(frame.id);
    const agreed = entry ? [entry] : [];
    if (frame.id === 0) agreed.push(...[...this.#entries.values()].filter(({ isKnown, isAsked }) => isKnown && isAsked));
    for (const each of agreed) {
      each.isAgreed = true;
      if (each.isEnded) this.#unsubscribe(each);
      else each.owner.agreed();
    }
    if (frame.replayed) this.#replay = { left: frame.replayed, entry, held: [], at: frame.at };
    else this.#replayed(entry, [], frame.at);
    this.#settle(frame.id)?.resolve(frame);
    this.#pump();
  }

  /** @param {any} frame */
  #refused(frame) {
    const error = new HubError(frame.code, frame.message);
    const open = this.#settle(frame.id);
    const entry = this.#entries.get(frame.id);
    if (open) {
      open.reject(error);
      this.#pump();
    } else if (entry) {
      this.#entries.delete(entry.id);
      if (!entry.isEnded) {
        entry.isEnded = true;
        entry.owner.refused(error);
      }
    } else {
      this.owner.failed(error);
    }
  }

  /** @param {number} id */
  #settle(id) {
    const open = this.#sent.get(id);
    if (open?.isQuick) this.#quick--;
    this.#sent.delete(id);
    return open;
  }

  /** @param {any} frame */
  async #respond(frame) {
    const { id, key } = frame;
    const socket = this.#socket;
    const of = [...this.#entries.values()].find(
      ({ type, isEnded, patterns }) => type === "respond" && !isEnded && matchesAny(patterns, key),
    );
    let text;
    try {
      if (!of) throw new Error("nobody responds here any more");
      text = `{"type":"reply","id":${id},"data":${await /** @type {Answering} */ (of.owner).answer(frame)}}`;
      if (this.#isTooLarge(text)) throw new Error("the reply is too large");
    } catch (error) {
      text = JSON.stringify({ type: "reply", id, error: String(error) });
    }
    // The next connection has other requests under the same numbers.
    if (socket === this.#socket) socket?.send(text);
  }

  /** @param {State} state */
  #change(state) {
    if (state === this.state) return;
    this.state = state;
    this.owner.changed(state);
  }
}

/**
 * One connection for all tabs, as a tab sees it: the connection itself is in a shared worker, see `Tab`.
 *
 * @internal
 * @implements {Line}
 */
class SharedLine {
  /** @type {State} */
  state = "connecting";
  /** @type {Map<number, { patterns: Key[], options: SubscribeOptions, sink: Sink }>} */
  #subscriptions = new Map();
  /** @type {Map<number, { patterns: Key[], answering: Answering }>} */
  #responders = new Map();
  /** @type {Map<number, { json: string, isQuick: boolean, resolve: (frame: any) => void, reject: (error: HubError) => void }>} */
  #asked = new Map();
  #nextId = 1;
  #release = () => {};
  /** Since when nothing comes: the page was left, or the worker is gone. Milliseconds. */
  #left = 0;
  /** Instead of the worker, where it does not open. @type {Connection | null} */
  #plain = null;
  /** @type {Map<number, () => void>} */
  #ends = new Map();
  /** @type {any} */
  #timer;
  /** Ends the wait for the end of the worker. */
  #watch = new AbortController();

  /**
   * Return a line over the shared worker; null where there is none.
   *
   * @param {URL} url
   * @param {HubOptions} options
   * @param {Owner} owner
   */
  static open(url, options, owner) {
    try {
      return new SharedLine(url, options, owner);
    } catch {
      // No such thing here, or a module of another host.
      return null;
    }
  }

  /**
   * @param {URL} url
   * @param {HubOptions} options
   * @param {Owner} owner
   */
  constructor(url, options, owner) {
    this.url = url;
    this.options = options;
    this.owner = owner;
    this.port = this.#open();
    globalThis.addEventListener?.("pagehide", this.#leave);
    globalThis.addEventListener?.("pageshow", this.#comeBack);
    for (const name of ["freeze", "resume", "visibilitychange"]) {
      globalThis.document?.addEventListener(name, this.#notice);
    }
  }

  /**
   * @param {Key[]} patterns
   * @param {SubscribeOptions} options
   * @param {Sink} sink
   */
  subscribe(patterns, options, sink) {
    if (this.#plain) return this.#plain.subscribe(patterns, options, sink);
    const id = this.#nextId++;
    this.#subscriptions.set(id, { patterns, options, sink });
    this.#post("subscribe", id, patterns, options);
    return () => this.#end(id);
  }

  /**
   * @param {Key[]} patterns
   * @param {Answering} answering
   */
  respond(patterns, answering) {
    if (this.#plain) return this.#plain.respond(patterns, answering);
    const id = this.#nextId++;
    this.#responders.set(id, { patterns, answering });
    this.#post("respond", id, patterns);
    return () => this.#end(id);
  }

  /**
   * @param {string} json
   * @param {boolean} isQuick
   * @returns {Promise<any>}
   */
  ask(json, isQuick) {
    if (this.#plain) return this.#plain.ask(json, isQuick);
    if (this.state === "closed") return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#asked.set(id, { json, isQuick, resolve, reject });
      this.#post("ask", id, json, isQuick);
    });
  }

  close() {
    if (this.#plain) this.#plain.close();
    else this.#closed();
  }

  // Coming and going

  /** Connect to the worker, which starts if it is not there. */
  #open() {
    const worker = new SharedWorker(this.options.worker ?? import.meta.url, { type: "module", name: WORKER });
    const { port } = worker;
    worker.onerror = () => this.#fallBack();
    this.#timer = setTimeout(() => this.#fallBack(), WORKER_WAIT);
    port.onmessage = ({ data }) => {
      let messages = 0;
      for (const item of data) {
        if (port !== this.port) return;
        if (item[0] === "message") messages++;
        this.#follow(item);
      }
      if (messages) this.#post("had", messages);
    };
    const { token, shared, protocols } = this.options;
    const asks = typeof token === "function";
    port.postMessage(["open", this.url.href, { token: asks ? undefined : token, asks, shared, protocols }]);
    // The worker waits for the same lock: it gets it when this tab is gone, however that came about.
    const name = lockName();
    /** @type {Promise<void>} */
    const held = new Promise((resolve) => (this.#release = resolve));
    globalThis.navigator?.locks?.request(name, () => {
      port.postMessage(["lock", name]);
      return held;
    });
    return port;
  }

  /** Wait for the lock that the worker holds: it lives in the process of some tab, and may be killed with it. @param {string} name */
  #watchWorker(name) {
    this.#watch = new AbortController();
    const { signal } = this.#watch;
    globalThis.navigator?.locks?.request(name, { mode: "shared", signal }, () => this.#beginAgain(Date.now())).catch(() => {});
  }

  #leave = () => {
    this.#left = Date.now();
    clearTimeout(this.#timer);
    this.#watch.abort();
    this.#post("leave");
    this.#release();
    this.port.close();
  };

  /** The page was left, and is shown again from the browser's cache. @param {any} event */
  #comeBack = ({ persisted }) => {
    if (persisted) this.#beginAgain(this.#left);
  };

  /** @param {number} since Milliseconds. */
  #beginAgain(since) {
    if (this.#plain || this.state === "closed") return;
    this.#leave();
    this.port = this.#open();
    this.#change("connecting");
    for (const { reject } of this.#take(this.#asked)) reject(lostError());
    for (const [id, { patterns, options, sink }] of this.#subscriptions) {
      if (options.gaps !== false) sink.gap(gapSince("not resumed", null, since));
      this.#post("subscribe", id, patterns, { ...options, history: undefined });
    }
    for (const [id, { patterns }] of this.#responders) this.#post("respond", id, patterns);
  }

  /** @param {any} event */
  #notice = ({ type }) => {
    if (type !== "visibilitychange") this.#post(type);
    else if (globalThis.document?.visibilityState === "visible") this.#post("wake");
  };

  #fallBack() {
    if (this.#plain || this.state === "closed") return;
    this.#detach();
    const plain = (this.#plain = new Connection(this.url, this.options, this.owner));
    for (const [id, { patterns, options, sink }] of this.#subscriptions) {
      this.#ends.set(id, plain.subscribe(patterns, options, sink));
    }
    for (const [id, { patterns, answering }] of this.#responders) this.#ends.set(id, plain.respond(patterns, answering));
    for (const { json, isQuick, resolve, reject } of this.#take(this.#asked)) {
      plain.ask(json, isQuick).then(resolve, reject);
    }
  }

  #detach() {
    globalThis.removeEventListener?.("pagehide", this.#leave);
    globalThis.removeEventListener?.("pageshow", this.#comeBack);
    for (const name of ["freeze", "resume", "visibilitychange"]) {
      globalThis.document?.removeEventListener(name, this.#notice);
    }
    this.#leave();
  }

  /** @param {State} state */
  #change(state) {
    if (state === this.state) return;
    this.state = state;
    this.owner.changed(state);
  }

  #closed() {
    if (this.state === "closed") return;
    this.#detach();
    this.#change("closed");
    for (const { reject } of this.#take(this.#asked)) reject(closedError());
  }

  /** @param {number} id */
  #end(id) {
    if (this.#plain) this.#ends.get(id)?.();
    else if (this.#subscriptions.delete(id) || this.#responders.delete(id)) this.#post("end", id);
  }

  /**
   * @template T
   * @param {Map<number, T>} map
   */
  #take(map) {
    const values = [...map.values()];
    map.clear();
    return values;
  }

  /** @param {any[]} item */
  #post(...item) {
    this.port.postMessage(item);
  }

  // What the worker says

  /** @param {any[]} item */
  #follow([name, ...rest]) {
    const [id, value, text] = rest;
    switch (name) {
      case "opened":
        clearTimeout(this.#timer);
        if (id) this.#watchWorker(id);
        break;
      case "state":
        if (id === "closed") this.#closed();
        else this.#change(id);
        break;
      case "message":
        this.#subscriptions.get(id)?.sink.deliver(value);
        break;
      case "gap":
        this.#subscriptions.get(id)?.sink.gap(value);
        break;
      case "agreed":
        (this.#subscriptions.get(id)?.sink ?? this.#responders.get(id)?.answering)?.agreed();
        break;
      case "refused": {
        const owner = this.#subscriptions.get(id)?.sink ?? this.#responders.get(id)?.answering;
        this.#subscriptions.delete(id);
        this.#responders.delete(id);
        owner?.refused(new HubError(value, text));
        break;
      }
      case "answer":
        this.#asked.get(id)?.resolve(value);
        this.#asked.delete(id);
        break;
      case "failure":
        this.#asked.get(id)?.reject(new HubError(value, text));
        this.#asked.delete(id);
        break;
      case "error":
        this.owner.failed(new HubError(id, value));
        break;
      case "request":
        this.#reply(id, async () => {
          const responder = this.#responders.get(value);
          if (!responder) throw new Error("nobody responds here any more");
          return responder.answering.answer(text);
        });
        break;
      case "token":
        this.#reply(id, async () => /** @type {TokenSource} */ (this.options.token)());
        break;
    }
  }

  /**
   * @param {number} id
   * @param {() => Promise<string>} make
   */
  async #reply(id, make) {
    try {
      this.#post("reply", id, await make());
    } catch (error) {
      this.#post("reply", id, undefined, String(error));
    }
  }
}

const lockName = () => `hubsub ${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;

// In the shared worker

/** The connection that some tabs share. */
class Group {
  /** @type {Map<string, Group>} */
  static all = new Map();

  /**
   * @param {string} name
   * @param {string} url
   * @param {any} options
   */
  constructor(name, url, { token, asks, protocols }) {
    this.name = name;
    /** @type {Set<Tab>} */
    this.tabs = new Set();
    const options = { token: asks ? () => this.#token() : token, protocols };
    this.connection = new Connection(new URL(url), options, {
      changed: (state) => {
        for (const tab of this.tabs) tab.post("state", state);
        // The next tab begins anew.
        if (state === "closed" && Group.all.get(this.name) === this) Group.all.delete(this.name);
      },
      failed: ({ code, message }) => {
        for (const tab of this.tabs) tab.post("error", code, message);
      },
    });
  }

  /**
   * @param {string} url
   * @param {any} options
   */
  static of(url, options) {
    const { token, asks, shared, protocols } = options;
    const name = JSON.stringify([url, token, asks, shared, protocols]);
    let group = Group.all.get(name);
    if (!group) Group.all.set(name, (group = new Group(name, url, options)));
    return group;
  }

  /** Ask a tab, the newest first: one that is frozen, or about to go, does not answer. */
  async #token() {
    let reason = "no tab is awake";
    for (const tab of [...this.tabs].reverse()) {
      try {
        return await tab.reply(TOKEN_WAIT, "token");
      } catch (error) {
        reason = /** @type {Error} */ (error).message;
      }
    }
    throw new Error(reason);
  }

  /** @param {Tab} tab */
  leave(tab) {
    this.tabs.delete(tab);
    if (!this.tabs.size) this.connection.close();
  }
}

/** A tab, as the shared worker sees it. */
class Tab {
  /** The name of the lock that the worker holds as long as it lives; none where there are no locks. @type {Promise<string | undefined>} */
  static lock = Promise.resolve(undefined);
  /** @type {Group | null} */
  #group = null;
  /** @type {any[][]} */
  #out = [];
  /** @type {Map<number, { patterns: Key[], options: SubscribeOptions, end: () => void }>} */
  #subscriptions = new Map();
  /** @type {Map<number, { patterns: Key[], end: () => void }>} */
  #responders = new Map();
  /** @type {Map<number, { resolve: (text: string) => void, reject: (error: Error) => void }>} */
  #replies = new Map();
  #nextId = 1;
  /** Counts how often the tab has opened. */
  #session = 0;
  #unread = 0;
  #unreadSince = 0;
  #isFrozen = false;
  /** When it fell asleep, if it is: then it has no subscriptions. */
  #asleepSince = 0;

  /** @param {MessagePort} port */
  constructor(port) {
    this.port = port;
    port.onmessage = ({ data: [name, ...rest] }) => this.#follow(name, rest);
  }

  /** @param {any[]} item */
  post(...item) {
    // All that one frame of the server brings goes to the tab at once.
    if (this.#out.push(item) === 1) queueMicrotask(() => this.port.postMessage(this.#out.splice(0)));
  }

  /**
   * Ask the tab for something, and return what it replies.
   *
   * @param {number} wait Milliseconds; 0 for as long as it is there.
   * @param {string} name
   * @param {any[]} rest
   * @returns {Promise<string>}
   */
  reply(wait, name, ...rest) {
    if (this.#isFrozen) return Promise.reject(new Error("the tab is frozen"));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#replies.set(id, { resolve, reject });
      if (wait) setTimeout(() => this.#replied(id, undefined, "the tab does not answer"), wait);
      this.post(name, id, ...rest);
    });
  }

  /**
   * @param {string} name
   * @param {any[]} rest
   */
  #follow(name, rest) {
    const [id, value, more] = rest;
    switch (name) {
      case "open":
        this.leave();
        this.#session++;
        this.#group = Group.of(id, value);
        this.#group.tabs.add(this);
        Tab.lock.then((name) => this.post("opened", name));
        this.post("state", this.#group.connection.state);
        break;
      case "lock": {
        const session = this.#session;
        navigator.locks.request(id, () => {
          if (session === this.#session) this.leave();
        });
        break;
      }
      case "leave":
        this.leave();
        break;
      case "subscribe":
        this.#subscriptions.set(id, { patterns: value, options: more, end: this.#subscribe(id, value, more) });
        break;
      case "respond":
        this.#responders.set(id, { patterns: value, end: this.#respond(id, value) });
        break;
      case "end":
        (this.#subscriptions.get(id) ?? this.#responders.get(id))?.end();
        this.#subscriptions.delete(id);
        this.#responders.delete(id);
        break;
      case "ask":
        this.#group?.connection.ask(value, more).then(
          (frame) => this.post("answer", id, frame),
          ({ code, message }) => this.post("failure", id, code, message),
        );
        break;
      case "reply":
        this.#replied(id, value, more);
        break;
      case "had":
        this.#had(id);
        break;
      case "freeze":
        this.#freeze();
        break;
      case "resume":
        if (!this.#isFrozen) break;
        this.#isFrozen = false;
        for (const [number, responder] of this.#responders) responder.end = this.#respond(number, responder.patterns);
        break;
      case "wake":
        this.#group?.connection.wake();
        break;
    }
  }

  /** It is closed, or was killed. */
  leave() {
    const group = this.#group;
    if (!group) return;
    this.#group = null;
    for (const { end } of [...this.#subscriptions.values(), ...this.#responders.values()]) end();
    this.#subscriptions.clear();
    this.#responders.clear();
    for (const id of [...this.#replies.keys()]) this.#replied(id, undefined, "the tab is gone");
    this.#unread = this.#asleepSince = 0;
    this.#isFrozen = false;
    group.leave(this);
  }

  /**
   * @param {number} id
   * @param {Key[]} patterns
   * @param {SubscribeOptions} options
   */
  #subscribe(id, patterns, options) {
    // Asleep it gets nothing: when it wakes it is subscribed.
    if (this.#asleepSince || !this.#group) return () => {};
    return this.#group.connection.subscribe(patterns, options, {
      deliver: (message) => {
        this.post("message", id, message);
        if (this.#unread++ === 0) this.#unreadSince = Date.now();
        const isLate = this.#unread > ASLEEP_MESSAGES && Date.now() - this.#unreadSince > ASLEEP_WAIT;
        if (isLate || this.#unread > ASLEEP_MOST) this.#fallAsleep();
      },
      gap: (gap) => this.post("gap", id, gap),
      agreed: () => this.post("agreed", id),
      refused: ({ code, message }) => {
        this.#subscriptions.delete(id);
        this.post("refused", id, code, message);
      },
    });
  }

  /**
   * @param {number} id
   * @param {Key[]} patterns
   */
  #respond(id, patterns) {
    if (this.#isFrozen || !this.#group) return () => {};
    return this.#group.connection.respond(patterns, {
      answer: (request) => this.reply(0, "request", id, request),
      agreed: () => this.post("agreed", id),
      refused: ({ code, message }) => {
        this.#responders.delete(id);
        this.post("refused", id, code, message);
      },
    });
  }

  /**
   * @param {number} id
   * @param {string | undefined} text
   * @param {string} [error]
   */
  #replied(id, text, error) {
    const open = this.#replies.get(id);
    this.#replies.delete(id);
    if (error === undefined) open?.resolve(/** @type {string} */ (text));
    else open?.reject(new Error(error));
  }

  /** The browser has stopped it: it answers nothing, and messages wait in its port. */
  #freeze() {
    this.#isFrozen = true;
    for (const { end } of this.#responders.values()) end();
    for (const id of [...this.#replies.keys()]) this.#replied(id, undefined, "the tab is frozen");
  }

  /** Too much waits in its port: let it have no more, and a gap when it wakes. */
  #fallAsleep() {
    if (this.#asleepSince) return;
    this.#asleepSince = Date.now();
    for (const { end } of this.#subscriptions.values()) end();
  }

  /** @param {number} count */
  #had(count) {
    this.#unread -= count;
    this.#unreadSince = Date.now();
    if (this.#unread > 0 || !this.#asleepSince) return;
    const since = this.#asleepSince;
    this.#asleepSince = 0;
    for (const [id, subscription] of this.#subscriptions) {
      const { patterns, options } = subscription;
      if (options.gaps !== false) this.post("gap", id, gapSince("not read", null, since));
      subscription.end = this.#subscribe(id, patterns, { ...options, history: undefined });
    }
  }
}

/** @type {any} */
const scope = globalThis;
if (scope.SharedWorkerGlobalScope && scope instanceof scope.SharedWorkerGlobalScope && scope.name === WORKER) {
  scope.addEventListener("connect", (/** @type {MessageEvent} */ { ports: [port] }) => new Tab(port));
  const { locks } = scope.navigator;
  if (locks) {
    const name = lockName();
    Tab.lock = new Promise((resolve) => locks.request(name, () => resolve(name) ?? new Promise(() => {})));
  }
}
