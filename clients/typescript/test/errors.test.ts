/** What the errors of a server become: class, reason, field and delay. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { status } from "@grpc/grpc-js";
import * as vllama from "../src/index.js";
import { type Refusal, ScriptedServer } from "./scripted_server.js";

let server: ScriptedServer;
let client: vllama.Client;

before(async () => {
  server = await new ScriptedServer().start();
  client = new vllama.Client(server.target, { attempts: 1, timeoutMilliseconds: 30_000 });
});

after(() => {
  client.close();
  server.stop();
});

async function refused(refusal: Refusal): Promise<vllama.VllamaError> {
  server.streams = [[{ refusal }]];
  const error = await client.generate({ model: "m", prompt: "Hi" }).collect().catch((caught: unknown) => caught);
  assert.ok(error instanceof vllama.VllamaError);
  return error;
}

const CLASSES: [status, typeof vllama.VllamaError][] = [
  [status.INVALID_ARGUMENT, vllama.InvalidRequest],
  [status.OUT_OF_RANGE, vllama.InvalidRequest],
  [status.NOT_FOUND, vllama.NotFound],
  [status.FAILED_PRECONDITION, vllama.NotSupported],
  [status.RESOURCE_EXHAUSTED, vllama.Busy],
  [status.UNAVAILABLE, vllama.Unavailable],
  [status.DEADLINE_EXCEEDED, vllama.DeadlineExceeded],
  [status.UNAUTHENTICATED, vllama.Unauthenticated],
  [status.PERMISSION_DENIED, vllama.Unauthenticated],
  [status.CANCELLED, vllama.Cancelled],
  [status.INTERNAL, vllama.ServerFault],
  [status.UNIMPLEMENTED, vllama.ServerFault],
];

for (const [code, kind] of CLASSES) {
  test(`${status[code]} is ${kind.name}`, async () => {
    const error = await refused({ code, message: "What to do." });
    assert.deepEqual([error.constructor, error.name, error.code, error.message], [kind, kind.name, code, "What to do."]);
  });
}

test("reason, field and delay are read from the details", async () => {
  const code = status.RESOURCE_EXHAUSTED;
  const error = await refused({ code, reason: "QUEUE_FULL", field: "model", retryAfterSeconds: 2.5 });
  assert.deepEqual([error.reason, error.field, error.retryAfterSeconds], ["QUEUE_FULL", "model", 2.5]);
});

test("without details there is a class and a sentence still", async () => {
  const error = await refused({ code: status.NOT_FOUND, details: Buffer.alloc(0) });
  assert.deepEqual([error.constructor, error.reason, error.retryAfterSeconds], [vllama.NotFound, "", undefined]);
});

test("a proxy's details hide nothing", async () => {
  const error = await refused({ code: status.UNAVAILABLE, details: Buffer.from([255, 255, 255, 1, 2]) });
  assert.equal(error.constructor, vllama.Unavailable);
});

test("calls with one answer fail in the same way", async () => {
  server.refusal = { code: status.FAILED_PRECONDITION, reason: "CAPABILITY_MISSING", field: "embedding" };
  const error = await client.embed({ model: "m", inputs: ["a"] }).catch((caught: unknown) => caught);
  server.refusal = undefined;
  assert.ok(error instanceof vllama.NotSupported);
  assert.equal(error.field, "embedding");
});
