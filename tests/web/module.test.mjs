// Run by test_module.py, which serves the endpoint.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const { Hub, HubError, matches } = await import(process.env.MODULE);
const server = process.env.SERVER;
const http = (path) => fetch(`http://${server}${path}`, { method: "POST" });

const until = async (condition, what) => {
  const begin = Date.now();
  while (!condition()) {
    assert.ok(Date.now() - begin < 15_000, `timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

const connected = async (query = "") => {
  const hub = new Hub(`ws://${server}/ws${query}`);
  await until(() => hub.state === "open", "the connection");
  return hub;
};

test("a pattern matches what it matches in Python", async () => {
  for (const [pattern, key, expected] of JSON.parse(await readFile(process.env.VECTORS, "utf8"))) {
    assert.equal(matches(pattern, key), expected, JSON.stringify([pattern, key]));
  }
});

test("messages reach listeners and iterators", async () => {
  const hub = await connected();
  const got = [];
  await hub.subscribe([["room", "*"]], (message) => got.push(message.data)).ready;
  const controller = new AbortController();
  const iterated = [];
  const loop = (async () => {
    for await (const { data } of hub.subscribe([["room", "1"]], undefined, { signal: controller.signal })) {
      iterated.push(data);
    }
  })();
  assert.equal(await hub.publish(["room", "1"], { text: "é" }), 1);
  await hub.publish(["room", "2"], 2);
  await until(() => got.length === 2 && iterated.length === 1, "both");
  assert.deepEqual([got, iterated], [[{ text: "é" }, 2], [{ text: "é" }]]);
  controller.abort();
  await loop;
  hub.close();
  assert.equal(hub.state, "closed");
});

test("a history is for its subscription alone", async () => {
  const hub = await connected();
  const [live, late] = [[], []];
  await hub.subscribe([["state", "*"]], ({ data }) => live.push(data)).ready;
  await hub.publish(["state", "a"], 1);
  await hub.publish(["state", "b"], 2);
  await hub.subscribe([["state", "*"]], ({ data }) => late.push(data), { history: 1 }).ready;
  await hub.publish(["state", "a"], 3);
  await until(() => late.length === 3 && live.length === 3, "all of it");
  assert.deepEqual([live, late], [[1, 2, 3], [1, 2, 3]]);
  hub.close();
});

test("what is refused is an error where it was asked for", async () => {
  const hub = await connected();
  const errors = [];
  hub.addEventListener("error", ({ detail }) => errors.push(detail.code));
  await assert.rejects(hub.subscribe([["secret"]]).ready, (error) => error instanceof HubError && error.code === "forbidden");
  await assert.rejects(hub.publish(["secret"], 1), { code: "forbidden" });
  await assert.rejects(hub.request(["room", "nobody"], 1), { code: "no-responders" });
  assert.deepEqual(errors, ["forbidden"]);
  hub.close();
  await assert.rejects(hub.publish(["room", "1"], 1), { code: "closed" });
});

test("requests cross both ways", async () => {
  const [asker, responder] = [await connected(), await connected()];
  const double = responder.respond([["room", "double"]], async ({ data }) => data * 2);
  const failing = responder.respond([["room", "fail"]], () => {
    throw new Error("no");
  });
  await Promise.all([double.ready, failing.ready]);
  assert.equal(await asker.request(["room", "double"], 21), 42);
  await assert.rejects(asker.request(["room", "fail"], 21), { code: "failed" });
  double.close();
  // The same line: what comes after it is answered after it.
  await responder.publish(["room", "after"], 1);
  await assert.rejects(asker.request(["room", "double"], 1), { code: "no-responders" });
  const refused = responder.respond([["secret"]], () => 1);
  await assert.rejects(refused.ready, { code: "forbidden" });
  assert.ok(refused.closed);
  asker.close();
  responder.close();
});

test("what is published before there is a connection waits, in order, once each", async () => {
  const reader = await connected();
  const got = [];
  await reader.subscribe([["room", "*"]], ({ data }) => got.push(data)).ready;
  const hub = new Hub(`ws://${server}/ws`);
  const answers = [1, 2, 3].map((number) => hub.publish(["room", "queue"], number));
  assert.deepEqual(await Promise.all(answers), [1, 1, 1]);
  await until(() => got.length === 3, "all");
  assert.deepEqual(got, [1, 2, 3]);
  hub.close();
  reader.close();
});

test("after a restart it goes on where it was", async () => {
  const hub = await connected();
  const [got, states, gaps] = [[], [], []];
  hub.addEventListener("state", ({ detail }) => states.push(detail));
  hub.addEventListener("gap", ({ detail }) => gaps.push(detail.gap.reason));
  await hub.subscribe([["room", "*"]], ({ data }) => got.push(data)).ready;
  for (let round = 0; round < 2; round++) {
    await http("/publish?text=before");
    await http("/restart?text=meanwhile");
    await until(() => states.length === 2 * round + 2 && hub.state === "open", "the connection");
    await http("/publish?text=after");
  }
  await until(() => got.length === 6, `all: ${got}`);
  assert.deepEqual(got, Array(2).fill(["before", "meanwhile", "after"]).flat());
  assert.deepEqual(gaps, []);
  hub.close();
});

test("what cannot be resumed is a gap", async () => {
  const hub = await connected("2");
  const gaps = [];
  hub.addEventListener("gap", ({ detail }) => gaps.push([detail.gap.reason, detail.subscription.patterns]));
  await hub.subscribe([["room", "*"]]).ready;
  for (let number = 0; number < 3; number++) await http("/publish?text=x");
  await http("/restart?text=much&times=10");
  await until(() => gaps.length === 1, "the gap");
  assert.deepEqual(gaps, [["not resumed", [["room", "*"]]]]);
  hub.close();
});

test("a token is sent first, and asked for again", async () => {
  let asked = 0;
  const hub = new Hub(`ws://${server}/private`, { token: () => (++asked === 1 ? "wrong" : "right") });
  await until(() => hub.state === "open", "the connection");
  assert.equal(asked, 2);
  await hub.subscribe([["room", "*"]]).ready;
  hub.close();
  const refused = new Hub(`ws://${server}/private`, { token: "wrong" });
  await until(() => refused.state === "closed", "the end");
});
