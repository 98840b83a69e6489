// Compiled by test_module.py, beside hubsub.d.ts, and never run: what TypeScript takes, and what it refuses.
import { Hub, HubError, Responder, Subscription, type Gap, type Message } from "./hubsub.js";

const hub = new Hub("/ws", { token: async () => "x", shared: true });

hub.addEventListener("gap", ({ detail: { gap, subscription } }) => {
  const missing: Gap = gap;
  subscription.close();
});
hub.addEventListener("state", ({ detail }) => {
  if (detail === "open") hub.close();
});
hub.addEventListener("error", ({ detail }: CustomEvent<HubError>) => {
  const code: string = detail.code;
});

export async function use(signal: AbortSignal): Promise<number> {
  const subscription: Subscription = hub.subscribe([["a"]], (message: Message) => message.key, { history: 1, signal });
  await subscription.ready;
  for await (const { data, headers } of subscription) return data + headers?.lang;
  const responder: Responder = hub.respond([["a"]], async ({ data }) => data);
  responder.close();
  return await hub.publish(["a"], 1, { confirm: 5 });
}

// @ts-expect-error: a key is an array.
hub.publish("a", 1);
// @ts-expect-error: patterns are an array of keys.
hub.subscribe(["a"]);
// @ts-expect-error: only a hub makes them.
new Subscription();
// @ts-expect-error: there is no such event.
hub.addEventListener("states", () => {});
// @ts-expect-error: it is private.
hub.subscribe([["a"]]).deliver({});
// @ts-expect-error: there is no such option.
hub.subscribe([["a"]], undefined, { histroy: 1 });
