/** API keys and TLS. The certificate of localhost and its key come from openssl, made anew for each run. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ServerCredentials } from "@grpc/grpc-js";
import { Client, type Tls, Unavailable } from "../src/index.js";
import { ScriptedServer } from "./scripted_server.js";

const HELLO = { model: "m", prompt: "Hi" };

interface Certificate {
  chain: Buffer;
  key: Buffer;
}

function makeCertificate(): Certificate | undefined {
  const folder = mkdtempSync(path.join(tmpdir(), "vllama-"));
  const [chain, key] = [path.join(folder, "chain.pem"), path.join(folder, "key.pem")];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"];
  const name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const done = spawnSync("openssl", ["req", "-x509", ...kind, ...name, "-out", chain, "-keyout", key]);
  const made = done.status === 0 ? { chain: readFileSync(chain), key: readFileSync(key) } : undefined;
  rmSync(folder, { recursive: true });
  return made;
}

const certificate = makeCertificate();
const skip = certificate === undefined && "openssl is not installed";

async function withTls(mutual: boolean, run: (target: string, tls: Tls) => Promise<void>): Promise<void> {
  const { chain, key } = certificate!;
  const pair = { cert_chain: chain, private_key: key };
  const server = await new ScriptedServer().start(ServerCredentials.createSsl(mutual ? chain : null, [pair], mutual));
  try {
    await run(`localhost:${server.port}`, { rootCertificates: chain });
  } finally {
    server.stop();
  }
}

async function answer(target: string, tls: Tls): Promise<string> {
  const client = new Client(target, { tls, attempts: 1, timeoutMilliseconds: 30_000 });
  try {
    return (await client.generate(HELLO).collect()).text;
  } finally {
    client.close();
  }
}

test("an API key goes with every call", async () => {
  const server = await new ScriptedServer().start();
  const client = new Client(server.target, { apiKey: "secret" });
  await client.generate(HELLO).collect();
  client.close();
  server.stop();
  assert.deepEqual(server.authorizations, ["Bearer secret"]);
});

test("TLS with an authority of one's own", { skip }, () =>
  withTls(false, async (target, tls) => assert.equal(await answer(target, tls), "Hello there")));

test("a server of another name than its certificate's", { skip }, () =>
  withTls(false, async (target, tls) => {
    const address = target.replace("localhost", "127.0.0.1");
    await assert.rejects(answer(address, tls), Unavailable);
    assert.equal(await answer(address, { ...tls, serverName: "localhost" }), "Hello there");
  }));

test("an unknown authority is refused", { skip }, () =>
  withTls(false, async (target) => assert.rejects(answer(target, {}), Unavailable)));

test("mutual TLS requires the client's certificate", { skip }, () =>
  withTls(true, async (target, tls) => {
    const { chain, key } = certificate!;
    assert.equal(await answer(target, { ...tls, certificateChain: chain, privateKey: key }), "Hello there");
    await assert.rejects(answer(target, tls), Unavailable);
  }));
