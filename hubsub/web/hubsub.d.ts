// Made by tools/declarations.py from hubsub.js.
/**
 * Return whether a pattern matches a key.
 *
 * @param {Key} pattern
 * @param {Key} key
 * @returns {boolean}
 */
export function matches(pattern: Key, key: Key): boolean;
/** What the server refuses, or what cannot be sent. */
export class HubError extends Error {
    /**
     * @param {string} code As in the protocol; or "lost": the connection was lost before an answer came, "full": too much
     *     waits, "closed": this hub is closed, "token": there is no valid token, "refused": the server refuses this client.
     * @param {string} message
     */
    constructor(code: string, message: string);
    code: string;
}
/** One subscription: it calls its listener, or is iterated with `for await`. `close()` ends it. */
export class Subscription {
    /**
     * @private
     * @param {Key[]} patterns
     * @param {Listener | undefined} listener
     * @param {SubscribeOptions} options
     * @param {(gap: Gap) => void} gap
     * @param {((sink: Sink) => () => void) | null} begin Returns what ends it; null if it is over before it begins.
     * @param {(error: HubError) => void} failed
     */
    private constructor();
    /** @readonly */
    readonly patterns: Key[];
    /** @readonly */
    readonly options: SubscribeOptions;
    closed: boolean;
    /** Resolves when the server has agreed; rejects with its `HubError`. @type {Promise<void>} @readonly */
    readonly ready: Promise<void>;
    /** Get nothing more. Closing twice is safe. */
    close(): void;
    /** @returns {AsyncIterator<Message>} */
    [Symbol.asyncIterator](): AsyncIterator<Message>;
    #private;
}
/** A function that responds to requests. `close()` ends it. */
export class Responder {
    /**
     * @private
     * @param {Key[]} patterns
     * @param {Respond} respond
     * @param {((answering: Answering) => () => void) | null} begin Returns what ends it; null if it is over before it begins.
     * @param {(error: HubError) => void} failed
     */
    private constructor();
    /** @readonly */
    readonly patterns: Key[];
    closed: boolean;
    /** Resolves when the server has agreed; rejects with its `HubError`. @type {Promise<void>} @readonly */
    readonly ready: Promise<void>;
    /** Respond no longer. Closing twice is safe. */
    close(): void;
    #private;
}
/**
 * A hub on the other side of a WebSocket.
 *
 * Events: `state` (`detail` is the state), `gap` (`detail` is `{ gap, subscription }`), `error` (`detail` is a
 * `HubError`: the server has refused something that nobody waits for, or this client for good).
 */
export class Hub extends EventTarget {
    /**
     * Connect, from now on.
     *
     * @param {string | URL} url Of the endpoint: `ws:`, `wss:`, or relative to the page.
     * @param {HubOptions} [options]
     */
    constructor(url: string | URL, options?: HubOptions);
    url: URL;
    options: HubOptions;
    /** "connecting", "open" or "closed". */
    get state(): State;
    /**
     * As of any `EventTarget`, with the types of this hub's events.
     *
     * @template {keyof HubEvents} K
     * @param {K} type
     * @param {((event: HubEvents[K]) => void) | EventListenerObject | null} listener
     * @param {boolean | AddEventListenerOptions} [options]
     */
    addEventListener<K extends keyof HubEvents>(type: K, listener: ((event: HubEvents[K]) => void) | EventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
    /**
     * Get the messages of some patterns, from now on, over every connection.
     *
     * @param {Key[]} patterns
     * @param {Listener} [listener] Called with each message; without one, iterate what is returned. Beyond 1000 messages
     *     that were not iterated, the oldest is dropped: a `gap`.
     * @param {SubscribeOptions} [options]
     * @returns {Subscription}
     */
    subscribe(patterns: Key[], listener?: Listener, options?: SubscribeOptions): Subscription;
    /**
     * Publish a message; while there is no connection it waits, in order, with at most 999 others.
     *
     * @param {Key} key
     * @param {any} data What `JSON.stringify` accepts.
     * @param {{ headers?: Record<string, string>, confirm?: number }} [options] `confirm`: resolve when everybody has
     *     finished with it, within so many seconds.
     * @returns {Promise<number>} How many got it.
     */
    publish(key: Key, data: any, { headers, confirm }?: {
        headers?: Record<string, string>;
        confirm?: number;
    }): Promise<number>;
    /**
     * Ask whoever responds to a key.
     *
     * @param {Key} key
     * @param {any} data
     * @param {{ headers?: Record<string, string>, timeout?: number }} [options] `timeout` in seconds.
     * @returns {Promise<any>} The reply.
     */
    request(key: Key, data: any, { headers, timeout }?: {
        headers?: Record<string, string>;
        timeout?: number;
    }): Promise<any>;
    /**
     * Respond to requests of some patterns with what a function returns, or what its promise resolves to.
     *
     * @param {Key[]} patterns
     * @param {Respond} respond If it throws, the request fails.
     * @returns {Responder}
     */
    respond(patterns: Key[], respond: Respond): Responder;
    /** Disconnect for good. Whatever waits is rejected. Closing twice is safe. */
    close(): void;
    #private;
}
/**
 * A key, or a pattern: a last `*` is one or more parts, any other `*` and `+` exactly one.
 */
export type Key = string[];
export type Message = {
    key: Key;
    data: any;
    at?: string;
    headers?: Record<string, string>;
    time?: number;
    replayed?: boolean;
};
export type Gap = {
    reason: string;
    count: number | null;
    since: number;
    until: number;
    keys: Key[] | null;
};
export type State = "connecting" | "open" | "closed";
export type Listener = (message: Message) => void;
export type Respond = (request: Message) => any;
export type TokenSource = () => string | Promise<string>;
export type HubEvents = {
    state: CustomEvent<State>;
    gap: CustomEvent<{
        gap: Gap;
        subscription: Subscription;
    }>;
    error: CustomEvent<HubError>;
};
export type HubOptions = {
    /**
     * Sent first; a function is called for each connection.
     */
    token?: string | TokenSource | undefined;
    /**
     * One connection for all tabs; a string: for all tabs with the same string.
     */
    shared?: string | boolean | undefined;
    /**
     * With `shared`: where this module is served, if a bundler has moved it.
     */
    worker?: string | URL | undefined;
    /**
     * Subprotocols, `["hubsub.v1"]` by default.
     */
    protocols?: string[] | undefined;
};
export type SubscribeOptions = {
    /**
     * Begin with so many of the last messages of each key.
     */
    history?: number | undefined;
    /**
     * Begin with the last message of each key, and again after a gap.
     */
    snapshot?: boolean | undefined;
    /**
     * False: no `gap` events of this subscription.
     */
    gaps?: boolean | undefined;
    /**
     * Ends it.
     */
    signal?: AbortSignal | undefined;
};
