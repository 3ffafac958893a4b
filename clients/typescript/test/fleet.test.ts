/** The client and the example service against a real fleet, whose gRPC address is in VLLAMA_TEST_TARGET. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials } from "@grpc/grpc-js";
import { summaryService } from "../examples/summary_service.js";
import { FleetClient, type ListWorkersResponse } from "../src/generated/vllama_protos/v1/fleet.js";
import { Client, DeadlineExceeded, FinishReason, type GenerateRequest, InvalidRequest, NotFound } from "../src/index.js";

const target = process.env.VLLAMA_TEST_TARGET;
const model = process.env.VLLAMA_TEST_MODEL ?? "simulated";
const skip = target === undefined && "VLLAMA_TEST_TARGET names no fleet with two workers on the simulated engine";
let client: Client;

before(() => {
  client = new Client(target, { timeoutMilliseconds: 60_000 });
});

after(() => client.close());

interface Line {
  index: number;
  summary: string;
  error: string;
}

const ask = (prompt: string, maxTokens: number): GenerateRequest => ({ model, prompt, sampling: { maxTokens } });

/** The simulated engine's answer: the prompt's hash and the number of each token. */
function expected(prompt: string, tokens: number): string {
  const digest = createHash("sha256").update(prompt).digest("hex").slice(0, 4);
  return Array.from({ length: tokens }, (_, number) => ` ${digest}.${number}`).join("");
}

test("forty streams at once are whole and their own, and both workers serve", { skip }, async () => {
  const prompts = Array.from({ length: 40 }, (_, number) => `Prompt number ${number}`);
  const answers = await Promise.all(prompts.map((prompt) => client.generate(ask(prompt, 20)).collect()));
  assert.deepEqual(answers.map((answer) => answer.text), prompts.map((prompt) => expected(prompt, 20)));
  assert.ok(answers.every((answer) => answer.finished.reason === FinishReason.FINISH_REASON_LENGTH));
  assert.equal(new Set(answers.map((answer) => answer.started.worker)).size, 2);
});

test("a chat is rendered by the worker, and its tokens are counted", { skip }, async () => {
  const request = { model, messages: [{ role: "user", content: "Hi" }], sampling: { maxTokens: 3 } };
  const [answer, tokens] = [await client.chat(request).collect(), await client.tokenize(request)];
  assert.equal(answer.text, expected(tokens.text, 3));
  assert.equal(answer.started.promptTokens, tokens.tokenIds.length);
});

test("tokens there and back", { skip }, async () => {
  const { tokenIds } = await client.tokenize(ask("Hello there", 1));
  assert.equal(await client.detokenize(model, tokenIds), "Hello there");
});

test("vectors come in order and have length 1", { skip }, async () => {
  const [first, second] = await client.embed({ model, inputs: ["a", "b"] });
  assert.notDeepEqual(first?.values, second?.values);
  const square = first?.values.reduce((sum, value) => sum + value * value, 0) ?? 0;
  assert.ok(Math.abs(square - 1) < 1e-3);
});

test("a cancelled stream frees its slot", { skip }, async () => {
  for await (const event of client.generate(ask("Long", 3000))) if (event.$case === "delta") break;
  const fleet = new FleetClient(target!, credentials.createInsecure());
  const leases = async () => {
    const listed = await new Promise<ListWorkersResponse>((resolve, reject) =>
      fleet.listWorkers({}, (error, reply) => (error ? reject(error) : resolve(reply))),
    );
    return listed.workers.reduce((sum, worker) => sum + worker.leases, 0);
  };
  const deadline = Date.now() + 60_000;
  while ((await leases()) > 0 && Date.now() < deadline) await sleep(50);
  assert.equal(await leases(), 0);
  fleet.close();
});

test("a deadline ends a stream", { skip }, async () => {
  await assert.rejects(client.generate(ask("Long", 3000), { timeoutMilliseconds: 500 }).collect(), DeadlineExceeded);
});

test("refusals carry their reasons all the way", { skip }, async () => {
  const unknown = client.generate({ model: "unknown:model", prompt: "Hi" }).collect();
  await assert.rejects(unknown, (error) => error instanceof NotFound && error.reason === "MODEL_NOT_FOUND");
  const empty = client.chat({ model, messages: [] }).collect();
  await assert.rejects(empty, (error) => error instanceof InvalidRequest && error.reason === "INVALID_REQUEST");
});

test("the example service answers every text, and refuses what is none", { skip }, async () => {
  const service = summaryService(client, model).listen(0, "127.0.0.1");
  await once(service, "listening");
  const url = `http://127.0.0.1:${(service.address() as AddressInfo).port}/summaries`;
  const texts = Array.from({ length: 20 }, (_, number) => `Text number ${number}`);
  try {
    const reply = await fetch(url, { method: "POST", body: JSON.stringify({ texts }) });
    const lines = (await reply.text()).trim().split("\n").map((line) => JSON.parse(line) as Partial<Line>);
    assert.deepEqual(lines.map((line) => line.index ?? -1).sort((a, b) => a - b), [...texts.keys()]);
    assert.deepEqual(lines.map((line) => line.error), texts.map(() => undefined));
    assert.ok(lines.every((line) => line.summary?.trim().split(" ").length === 60));
    assert.equal((await fetch(url, { method: "POST", body: "{}" })).status, 400);
  } finally {
    service.close();
    service.closeAllConnections();
  }
});
