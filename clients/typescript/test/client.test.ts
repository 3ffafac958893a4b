/** The client against a scripted server on a real socket: events, cancellation, deadlines, retries. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { status } from "@grpc/grpc-js";
import {
  Cancelled,
  Client,
  type ConnectionOptions,
  DeadlineExceeded,
  type Event,
  IncompleteStream,
  InvalidRequest,
  ThinkLevel,
  ToolChoiceMode,
  Unavailable,
} from "../src/index.js";
import { delta, finished, ScriptedServer, started } from "./scripted_server.js";

const HELLO = { model: "m", prompt: "Hi" };
const UNAVAILABLE = { refusal: { code: status.UNAVAILABLE } };
let server: ScriptedServer;
let clients: Client[];

beforeEach(async () => {
  clients = [];
  server = await new ScriptedServer().start();
});

afterEach(() => {
  for (const client of clients) client.close();
  server.stop();
});

function connect(options: ConnectionOptions = {}): Client {
  const client = new Client(server.target, { timeoutMilliseconds: 30_000, ...options });
  clients.push(client);
  return client;
}

test("events come in order, typed by their kind", async () => {
  const events: Event[] = [];
  for await (const event of connect().generate(HELLO)) events.push(event);
  assert.deepEqual(events.map((event) => event.$case), ["started", "delta", "delta", "finished"]);
});

test("texts yields the answer piece by piece", async () => {
  const texts: string[] = [];
  for await (const text of connect().generate(HELLO).texts()) texts.push(text);
  assert.deepEqual(texts, ["Hello", " there"]);
});

test("collect adds a stream up", async () => {
  server.streams = [[started(), delta("", { thinking: "Hm." }), delta("Hello"), finished()]];
  const answer = await connect().generate(HELLO).collect();
  assert.deepEqual([answer.text, answer.thinking, answer.tokenIds], ["Hello", "Hm.", [0, 5]]);
  assert.deepEqual([answer.started.worker, answer.finished.usage?.completionTokens], ["worker-0", 2]);
});

test("a request carries everything that it was given", async () => {
  const sampling = { temperature: 0, maxTokens: 7, seed: 2 ** 40, stop: ["\n"] };
  await connect()
    .generate({ ...HELLO, sampling, suffix: "!", topLogprobs: 0, session: "s", priority: -1, requestId: "id" })
    .collect();
  const sent = server.requests[0]!;
  assert.deepEqual(sent.input, { $case: "prompt", value: "Hi" });
  assert.deepEqual(
    [sent.sampling?.temperature, sent.sampling?.maxTokens, sent.sampling?.seed, sent.sampling?.stop],
    [0, 7, 2 ** 40, ["\n"]],
  );
  assert.equal(sent.sampling?.topP, undefined);
  assert.deepEqual([sent.suffix, sent.logprobs, sent.session, sent.priority, sent.requestId], ["!", true, "s", -1, "id"]);
});

test("token ids go as they are", async () => {
  await connect().generate({ model: "m", prompt: [5, 6] }).collect();
  assert.deepEqual(server.requests[0]?.input, { $case: "tokenIds", value: { ids: [5, 6] } });
});

test("a chat carries its turns, tools, think level and template switches", async () => {
  const chat = {
    model: "m",
    messages: [{ role: "user", content: "Weather?" }],
    tools: [{ name: "weather", parametersJson: "{}" }],
    toolChoice: { mode: ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED },
    think: ThinkLevel.THINK_LEVEL_LOW,
    templateSwitches: { deep: { list: [1, "a", null, true] } },
    outputFormat: { $case: "jsonSchema", value: "{}" } as const,
  };
  await connect().chat(chat).collect();
  const { input, outputFormat } = server.requests[0]!;
  assert.ok(input?.$case === "chat");
  assert.deepEqual([input.value.messages[0]?.content, input.value.tools[0]?.name], ["Weather?", "weather"]);
  assert.deepEqual([input.value.toolChoice?.mode, input.value.think], [3, 3]);
  assert.deepEqual(input.value.templateSwitches, chat.templateSwitches);
  assert.deepEqual(outputFormat?.kind, { $case: "jsonSchema", value: "{}" });
});

test("leaving the loop ends the call on the server", async () => {
  server.streams = [[started(), delta("Hello"), "pause"]];
  for await (const event of connect().generate(HELLO)) if (event.$case === "delta") break;
  await server.cancelled();
});

test("a signal ends a stream, and its reason is the cause", async () => {
  server.streams = [[started(), "pause"]];
  const controller = new AbortController();
  const read = async () => {
    for await (const _ of connect().generate(HELLO, { signal: controller.signal })) controller.abort("enough");
  };
  await assert.rejects(read(), (error) => error instanceof Cancelled && error.cause === "enough");
  await server.cancelled();
});

test("a signal that was given already sends nothing", async () => {
  const settings = { signal: AbortSignal.abort("too late") };
  await assert.rejects(connect().generate(HELLO, settings).collect(), Cancelled);
  await assert.rejects(connect().embed({ model: "m", inputs: ["a"] }, settings), Cancelled);
  assert.deepEqual([server.requests.length, server.embedded.length], [0, 0]);
});

test("a signal keeps nothing of calls that have ended", async () => {
  const { signal } = new AbortController();
  let listeners = 0;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...all: Parameters<typeof add>) => ((listeners += 1), add(...all));
  signal.removeEventListener = (...all: Parameters<typeof remove>) => ((listeners -= 1), remove(...all));
  await connect().generate(HELLO, { signal }).collect();
  await connect().tokenize(HELLO, { signal });
  assert.equal(listeners, 0);
});

test("a deadline ends a stream that would not end", async () => {
  server.streams = [[started(), "pause"]];
  const generation = connect().generate(HELLO, { timeoutMilliseconds: 200 });
  await assert.rejects(generation.collect(), DeadlineExceeded);
  await server.cancelled();
});

test("the client's own bound holds for calls without one", async () => {
  server.streams = [["pause"]];
  await assert.rejects(connect({ timeoutMilliseconds: 200 }).generate(HELLO).collect(), DeadlineExceeded);
});

test("a call that finds no server is tried again", async () => {
  server.streams = [[UNAVAILABLE], [UNAVAILABLE], [started(), delta("Hello"), finished()]];
  assert.equal((await connect().generate(HELLO).collect()).text, "Hello");
  assert.equal(server.requests.length, 3);
});

test("a stream that has begun is never begun again", async () => {
  server.streams = [[started(), UNAVAILABLE]];
  await assert.rejects(connect().generate(HELLO).collect(), Unavailable);
  assert.equal(server.requests.length, 1);
});

test("one attempt means no retries", async () => {
  server.streams = [[UNAVAILABLE]];
  await assert.rejects(connect({ attempts: 1 }).generate(HELLO).collect(), Unavailable);
  assert.equal(server.requests.length, 1);
});

test("a stream without its end is not a whole answer", async () => {
  server.streams = [[started(), delta("Hel")]];
  await assert.rejects(connect().generate(HELLO).collect(), IncompleteStream);
});

test("an unread error does not end the process", async () => {
  server.streams = [[{ refusal: { code: status.INTERNAL } }]];
  connect().generate(HELLO);
  const second = connect().generate(HELLO);
  await assert.rejects(second.collect());
});

test("embeddings, tokens and texts are returned", async () => {
  const client = connect();
  const vectors = await client.embed({ model: "m", inputs: ["a", "bcd"], dimensions: 1, normalize: false });
  assert.deepEqual(vectors.map((vector) => vector.values), [[1], [3]]);
  assert.deepEqual([server.embedded[0]?.normalize, server.embedded[0]?.dimensions], [false, 1]);
  const tokens = await client.tokenize({ model: "m", messages: [{ role: "user", content: "Hi" }] });
  assert.deepEqual([tokens.tokenIds, tokens.text], [[1, 2, 3], "rendered"]);
  assert.equal(await client.detokenize("m", [4, 5]), "4 5");
});

test("token ids cannot be tokenized", async () => {
  await assert.rejects(connect().tokenize({ model: "m", prompt: [1] }), InvalidRequest);
});

test("all calls share one connection", async () => {
  const client = connect();
  await Promise.all(Array.from({ length: 20 }, () => client.generate(HELLO).collect()));
  assert.deepEqual([server.requests.length, server.peers.size], [20, 1]);
});

test("closing cancels what runs", async () => {
  server.streams = [[started(), "pause"]];
  const client = connect();
  const read = async () => {
    for await (const _ of client.generate(HELLO)) client.close();
  };
  await assert.rejects(read(), Cancelled);
  await server.cancelled();
  client.close();
});

test("ready resolves when the server answers, and its error names the target", async () => {
  await connect().ready();
  const target = server.target;
  server.stop();
  const unserved = new Client(target);
  clients.push(unserved);
  await assert.rejects(unserved.ready(200), (error) => error instanceof Unavailable && error.message.includes(target));
});

for (const loadBalancing of ["round_robin", "weighted_round_robin"]) {
  test(`${loadBalancing} spreads calls over a list of addresses`, async () => {
    const other = await new ScriptedServer().start();
    try {
      const client = new Client(`ipv4:${server.target},${other.target}`, { loadBalancing, timeoutMilliseconds: 30_000 });
      clients.push(client);
      const deadline = Date.now() + 30_000;
      while (server.requests.length === 0 || other.requests.length === 0) {
        assert.ok(Date.now() < deadline);
        await client.generate(HELLO).collect();
      }
    } finally {
      other.stop();
    }
  });
}
