// Run by test_module.py: the module alone, with a fake line and a fake clock.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

const { Hub } = await import(process.env.MODULE);
const real = { random: Math.random, now: performance.now, setInterval, clearInterval };
const LIMITS = { frame_bytes: 65_536, publishes_per_second: 100, publish_burst: 200 };

/** The other side of a WebSocket is the test. */
class Line {
  static all = [];
  static get last() {
    return Line.all.at(-1);
  }
  sent = [];
  isClosed = false;

  constructor() {
    Line.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.isClosed = true;
  }
  open() {
    this.onopen?.();
    return this;
  }
  say(...frames) {
    this.onmessage({ data: JSON.stringify(frames) });
    return this;
  }
  welcome(more = {}) {
    return this.open().say({ type: "welcome", ping: 25, at: { o: 1 }, limits: LIMITS, ...more });
  }
  cut(code = 1006) {
    this.onclose({ code });
  }
  of(type) {
    return this.sent.filter((frame) => frame.type === type);
  }
}

/** Let promises settle; the clock stands still. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** What `setInterval` was given, always for a second. */
const ticks = new Set();
let ticked = 0;

/** Let time pass, with all that the module does meanwhile. */
const pass = async (seconds, step = 1) => {
  for (let passed = 0; passed < seconds; passed += step) {
    mock.timers.tick(step * 1000);
    if (Date.now() - ticked >= 1000) tick();
    await settle();
  }
};
const tick = () => {
  ticked = Date.now();
  for (const each of ticks) each();
};

const hubs = [];
const made = async (options) => {
  const hub = new Hub("ws://x/ws", options);
  hubs.push(hub);
  await settle();
  return hub;
};

/** A tab that was frozen, or a machine that was asleep: no tick came, and then one does. */
const sleep = async (seconds) => {
  mock.timers.setTime(Date.now() + seconds * 1000);
  tick();
  await settle();
};

const message = (at, data, more) => ({ key: ["a"], data, ...(at && { at: `o:${at}` }), ...more });

beforeEach(() => {
  Line.all = [];
  globalThis.WebSocket = Line;
  Math.random = () => 0.999999;
  performance.now = () => Date.now();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000_000_000 });
  ticked = Date.now();
  globalThis.setInterval = (each) => ticks.add(each) && each;
  globalThis.clearInterval = (each) => ticks.delete(each);
});

afterEach(() => {
  for (const hub of hubs.splice(0)) hub.close();
  mock.timers.reset();
  Math.random = real.random;
  performance.now = real.now;
  globalThis.setInterval = real.setInterval;
  globalThis.clearInterval = real.clearInterval;
});

test("the whole of the wait is random, up to twenty seconds", async () => {
  await made();
  for (const random of [0.999999, 0.5, 0]) {
    Math.random = () => random;
    Line.last.welcome();
    for (const bound of [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]) {
      const lines = Line.all.length;
      Line.last.cut();
      const wait = Math.floor(random * bound);
      if (wait > 1) {
        mock.timers.tick(wait - 1);
        await settle();
        assert.equal(Line.all.length, lines, `before ${wait} ms`);
      }
      mock.timers.tick(2);
      await settle();
      assert.equal(Line.all.length, lines + 1, `after ${wait} ms`);
    }
  }
});

test("a server that says when to come back is believed", async () => {
  await made();
  Line.last.welcome().say({ type: "bye", code: 1012, reason: "", retry: 2500 }).cut(1012);
  await pass(2.4, 0.1);
  assert.equal(Line.all.length, 1);
  await pass(0.2, 0.1);
  assert.equal(Line.all.length, 2);
  Line.last.cut();
  await pass(0.6, 0.1);
  assert.equal(Line.all.length, 3, "that held once");
});

test("a silent line is pinged and then given up", async () => {
  const hub = await made();
  const line = Line.last.welcome();
  await pass(26);
  assert.equal(line.of("ping").length, 1);
  line.say({ type: "pong" });
  await pass(26);
  assert.equal(line.of("ping").length, 2);
  assert.equal(hub.state, "open");
  await pass(11);
  assert.ok(line.isClosed);
  assert.equal(hub.state, "connecting");
});

test("a line that never opens is given up", async () => {
  await made();
  await pass(12);
  assert.ok(Line.all[0].isClosed);
  assert.equal(Line.all.length, 2);
});

test("a throttled tab keeps a good line and notices a dead one", async () => {
  const hub = await made();
  const line = Line.last.welcome();
  // A tick a minute; what the line brings is not throttled.
  for (let minute = 0; minute < 10; minute++) {
    await sleep(60);
    if (line.of("ping").length) line.sent.splice(0), line.say({ type: "pong" });
  }
  assert.equal(hub.state, "open");
  assert.equal(Line.all.length, 1);
  await sleep(60);
  await sleep(60);
  await sleep(60);
  assert.equal(hub.state, "connecting");
});

test("a thawed tab keeps a good line, whatever was open when it froze", async () => {
  const hub = await made();
  const line = Line.last.welcome();
  await pass(26);
  assert.equal(line.of("ping").length, 1);
  // The pong is there, but the tab has not handled it when its clock ticks.
  await sleep(3600);
  line.say({ type: "pong" });
  await pass(20);
  await sleep(3600);
  assert.equal(line.of("ping").length, 2);
  await pass(5);
  line.say({ type: "pong" });
  await pass(20);
  assert.equal(hub.state, "open");
  assert.equal(Line.all.length, 1);
});

test("a position of a server that is gone is forgotten", async () => {
  const hub = await made();
  const gaps = [];
  hub.addEventListener("gap", ({ detail }) => gaps.push(detail.gap.reason));
  hub.subscribe([["a"]], () => {});
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 1 } }, message(5, 1)).cut();
  await pass(1);
  Line.last.welcome({ at: { p: 7 } });
  assert.deepEqual(Line.last.of("hello")[0].resume, { at: { o: 5 }, subscriptions: [{ id: 1, patterns: [["a"]] }] });
  Line.last.say(
    { type: "ok", id: 0, at: { p: 7 }, resumed: false, replayed: 0 },
    { type: "gap", of: 1, reason: "not resumed", count: null, since: 1, until: 2, keys: null },
  );
  assert.deepEqual(gaps, ["not resumed"]);
  Line.last.cut();
  await pass(1);
  Line.last.welcome({ at: { p: 9 } });
  assert.deepEqual(Line.last.of("hello")[0].resume.at, { p: 7 });
});

test("a replay that is cut goes on where it was", async () => {
  const hub = await made();
  const got = [];
  hub.subscribe([["a"]], ({ data }) => got.push(data));
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 1 } }).cut();
  await pass(1);
  Line.last.welcome({ at: { o: 9 } }).say({ type: "ok", id: 0, at: { o: 9 }, resumed: true, replayed: 3 }, message(2, 2));
  Line.last.cut();
  await pass(1);
  Line.last.welcome({ at: { o: 9 } });
  assert.deepEqual(Line.last.of("hello")[0].resume.at, { o: 2 });
  Line.last.say({ type: "ok", id: 0, at: { o: 9 }, resumed: true, replayed: 2 }, message(3, 3), message(9, 9));
  assert.deepEqual(got, [2, 3, 9]);
});

test("a gap counts among what is replayed", async () => {
  const hub = await made();
  const [got, late, gaps] = [[], [], []];
  hub.addEventListener("gap", ({ detail }) => gaps.push(detail.gap.reason));
  hub.subscribe([["a"]], ({ data }) => got.push(data));
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 1 } }).cut();
  await pass(1);
  hub.subscribe([["a"]], ({ data }) => late.push(data), { history: 1 });
  Line.last.welcome({ at: { o: 3 } }).say(
    { type: "ok", id: 0, at: { o: 3, p: 9 }, resumed: true, replayed: 2 },
    { type: "gap", of: 1, reason: "an outage", count: 1, since: 1, until: 2, keys: null },
    message(3, 3),
    { type: "ok", id: 2, at: { o: 3 }, replayed: 1 },
    message(0, 3, { replayed: true }),
    message(4, 4),
  );
  assert.deepEqual([gaps, got, late], [["an outage"], [3, 4], [3, 4]]);
  Line.last.cut();
  await pass(1);
  Line.last.welcome();
  // Of what was sent before `ok`, everything has come when the replay has.
  assert.deepEqual(Line.last.of("hello")[0].resume.at, { o: 4, p: 9 });
});

test("a history that is cut in the middle comes once", async () => {
  const hub = await made();
  const got = [];
  hub.subscribe([["a"]], ({ data }) => got.push(data), { history: 3 });
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 3 }, replayed: 3 }, message(0, 1, { replayed: true })).cut();
  await pass(1);
  Line.last.welcome();
  assert.equal(Line.last.of("hello").length, 0);
  assert.equal(Line.last.of("subscribe")[0].history, 3);
  Line.last.say({ type: "ok", id: 1, at: { o: 3 }, replayed: 2 });
  for (const data of [1, 2]) Line.last.say(message(0, data, { replayed: true }));
  Line.last.say(message(4, 4));
  assert.deepEqual(got, [1, 2, 4]);
});

test("a subscription that the server has not agreed to gets nothing yet", async () => {
  const hub = await made();
  const [got, late] = [[], []];
  hub.subscribe([["a"]], ({ data }) => got.push(data));
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 1 } });
  hub.subscribe([["a"]], ({ data }) => late.push(data), { history: 1 });
  Line.last.say(message(2, 2), { type: "ok", id: 2, at: { o: 2 }, replayed: 1 }, message(0, 2, { replayed: true }));
  assert.deepEqual([got, late], [[2], [2]]);
});

test("a snapshot after a gap is for its subscription alone", async () => {
  const hub = await made();
  const [plain, snapshot] = [[], []];
  hub.subscribe([["a"]], ({ data }) => plain.push(data));
  hub.subscribe([["a"]], ({ data }) => snapshot.push(data), { snapshot: true });
  Line.last.welcome().say(
    { type: "ok", id: 1, at: { o: 1 } },
    { type: "ok", id: 2, at: { o: 1 }, replayed: 0 },
    { type: "gap", of: 1, reason: "x", count: null, since: 1, until: 2, keys: null },
    { type: "gap", of: 2, reason: "x", count: null, since: 1, until: 2, keys: null },
    message(0, 1, { replayed: true }),
    message(2, 2),
  );
  assert.deepEqual([plain, snapshot], [[2], [1, 2]]);
  Line.last.cut();
  await pass(1);
  Line.last.welcome();
  assert.deepEqual(Line.last.of("hello")[0].resume.subscriptions, [
    { id: 1, patterns: [["a"]] },
    { id: 2, patterns: [["a"]], snapshot: true },
  ]);
});

test("what ends before the server has agreed is unsubscribed after that, and not if it is refused", async () => {
  const hub = await made();
  const line = Line.last.welcome();
  for (const handle of [hub.subscribe([["a"]]), hub.subscribe([["b"]]), hub.respond([["c"]], () => 1)]) handle.close();
  assert.equal(line.of("unsubscribe").length, 0);
  line.say({ type: "ok", id: 1, at: {} }, { type: "error", id: 2, code: "forbidden", message: "" }, { type: "ok", id: 3, at: {} });
  assert.deepEqual(line.of("unsubscribe").map(({ of }) => of), [1, 3]);
});

test("a reply belongs to the connection of its request", async () => {
  const hub = await made();
  let reply;
  hub.respond([["a"]], () => new Promise((resolve) => (reply = resolve)));
  Line.last.welcome().say({ type: "ok", id: 1, at: {} }, { type: "request", id: 1, key: ["a"], data: 1 }).cut();
  await pass(1);
  Line.last.welcome();
  reply(1);
  await settle();
  assert.deepEqual(Line.last.of("reply"), []);
  assert.equal(Line.last.of("respond").length, 1);
});

test("a thousand messages wait for a connection, as they were, and are sent as fast as the server allows", async () => {
  const hub = await made();
  const data = { number: 0 };
  const answers = [];
  for (; data.number < 1000; data.number++) answers.push(hub.publish(["a"], data));
  await assert.rejects(hub.publish(["a"], 1), { code: "full" });
  const line = Line.last.welcome();
  let answered = 0;
  const answer = () => {
    for (const { id } of line.of("publish").slice(answered)) line.say({ type: "ok", id, at: {}, count: 1 }), answered++;
  };
  assert.equal(line.of("publish").length, 200);
  // Nothing is answered yet: a line that holds back so many would bring them all at once.
  await pass(3, 0.01);
  assert.equal(line.of("publish").length, 200);
  // Meanwhile there is leave for as many again, and then for none until time passes.
  for (let round = 0; round < 3; round++) answer();
  assert.equal(line.of("publish").length, 400);
  for (let round = 0; round < 2000 && answered < 1000; round++) {
    await new Promise((resolve) => setImmediate(resolve));
    mock.timers.tick(100);
    answer();
  }
  assert.deepEqual(line.of("publish").map((frame) => frame.data.number), [...Array(1000).keys()]);
  assert.equal((await Promise.all(answers)).length, 1000);
});

test("what was sent is lost with the line, what waits is not", async () => {
  const hub = await made();
  const line = Line.last.welcome({ limits: { ...LIMITS, publish_burst: 1 } });
  const [sent, waits] = [hub.publish(["a"], 1), hub.publish(["a"], 2)];
  line.cut();
  await assert.rejects(sent, { code: "lost" });
  await pass(1);
  Line.last.welcome();
  Line.last.say({ type: "ok", id: Line.last.of("publish")[0].id, at: {}, count: 3 });
  assert.equal(await waits, 3);
  assert.deepEqual(Line.last.of("publish").map(({ data }) => data), [2]);
});

test("what the server would count as malformed is refused here", async () => {
  const hub = await made();
  Line.last.welcome();
  for (const key of ["a", [], [1], undefined]) {
    await assert.rejects(hub.publish(key, 1), TypeError);
    assert.throws(() => hub.subscribe([key]), TypeError);
  }
  assert.throws(() => hub.subscribe(["a"]), TypeError);
  const circle = {};
  circle.self = circle;
  await assert.rejects(hub.publish(["a"], circle), TypeError);
  await assert.rejects(hub.publish(["a"], "é".repeat(40_000)), { code: "too-large" });
  assert.deepEqual(Line.last.of("publish"), []);
});

test("a refused token is not sent again", async () => {
  let token = "old";
  const errors = [];
  const hub = await made({ token: () => token });
  hub.addEventListener("error", ({ detail }) => errors.push(detail.code));
  Line.last.open().say({ type: "bye", code: 4401, reason: "refused" }).cut(4401);
  await pass(30);
  assert.equal(Line.all.length, 1);
  assert.equal(new Set(errors).size, 1);
  assert.equal(errors[0], "token");
  token = "new";
  for (let second = 0; second < 21 && Line.all.length < 2; second++) await pass(1);
  assert.equal(Line.last.open().of("hello")[0].token, "new");
});

test("a server that refuses this client for good is left alone", async () => {
  for (const code of [4400, 4403, 4401]) {
    const hub = await made({ token: "one" });
    const subscription = hub.subscribe([["a"]]);
    const lines = Line.all.length;
    Line.last.open().cut(code);
    await pass(30);
    assert.equal(hub.state, "closed");
    assert.equal(Line.all.length, lines);
    await assert.rejects(subscription.ready, { code: "closed" });
    await assert.rejects(hub.publish(["a"], 1), { code: "closed" });
    assert.ok(hub.subscribe([["a"]]).closed);
    assert.ok(hub.respond([["a"]], () => 1).closed);
  }
});

test("an iteration that does not keep up drops the oldest, and a gap says how many", async () => {
  const hub = await made();
  const gaps = [];
  hub.addEventListener("gap", ({ detail }) => gaps.push(detail.gap));
  const iterator = hub.subscribe([["a"]])[Symbol.asyncIterator]();
  Line.last.welcome().say({ type: "ok", id: 1, at: { o: 1 } });
  for (let number = 0; number < 1005; number++) Line.last.say(message(number + 2, number));
  assert.deepEqual(gaps, []);
  assert.equal((await iterator.next()).value.data, 5);
  assert.deepEqual(gaps.map(({ reason, count }) => [reason, count]), [["drop_oldest", 5]]);
  assert.equal((await iterator.next()).value.data, 6);
  assert.equal(gaps.length, 1);
});

test("a listener that throws hurts only itself", async () => {
  const hub = await made();
  const [got, reported] = [[], []];
  globalThis.reportError = (error) => reported.push(error.message);
  hub.subscribe([["a"]], () => {
    throw new Error("mine");
  });
  hub.subscribe([["a"]], ({ data }) => got.push(data));
  Line.last.welcome().say({ type: "ok", id: 1, at: {} }, { type: "ok", id: 2, at: {} }, message(2, 1), message(3, 2));
  assert.deepEqual([got, reported], [[1, 2], ["mine", "mine"]]);
  delete globalThis.reportError;
});

test("without a shared worker a hub has a line of its own", async () => {
  const hub = await made({ shared: true });
  assert.equal(Line.all.length, 1);
  Line.last.welcome();
  assert.equal(hub.state, "open");
});

test("a shared worker that does not open is replaced by a line of one's own, and nothing is lost", async () => {
  globalThis.SharedWorker = class {
    port = { postMessage() {}, close() {} };
  };
  const hub = await made({ shared: true });
  const got = [];
  const subscription = hub.subscribe([["a"]], ({ data }) => got.push(data));
  const answer = hub.publish(["a"], 1);
  assert.equal(Line.all.length, 0);
  await pass(6);
  delete globalThis.SharedWorker;
  Line.last.welcome().say({ type: "ok", id: 1, at: {} }, { type: "ok", id: 2, at: {}, count: 1 }, message(2, 1));
  assert.equal(await answer, 1);
  assert.deepEqual(got, [1]);
  subscription.close();
  assert.equal(Line.last.of("unsubscribe").length, 1);
});
