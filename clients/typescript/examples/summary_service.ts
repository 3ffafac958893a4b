/**
 * An example internal service: HTTP in, summaries out, a bounded number of chats at once.
 *
 *     POST /summaries {"texts": ["…", "…"]}  ->  one line of JSON per text, in the order in which they come
 *
 * What it shows: one client for the life of the service; a caller that disconnects cancels
 * its chats; after a full queue the text is tried once more, after the delay that the server gives.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Busy, Client, VllamaError } from "../src/index.js";

const CONCURRENCY = 8;
const TIMEOUT_MILLISECONDS = 120_000;
const BODY_LIMIT_BYTES = 1 << 20;

/** Summarises one text; Busy when the queue is full twice. */
async function summarise(client: Client, model: string, text: string, signal: AbortSignal): Promise<string> {
  const messages = [
    { role: "system", content: "Summarise the text in one sentence." },
    { role: "user", content: text },
  ];
  const ask = async () => {
    const settings = { signal, timeoutMilliseconds: TIMEOUT_MILLISECONDS };
    return (await client.chat({ model, messages, sampling: { maxTokens: 60 } }, settings).collect()).text;
  };
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof Busy) || error.retryAfterSeconds === undefined) throw error;
    await sleep(error.retryAfterSeconds * 1000, undefined, { signal });
    return ask();
  }
}

/** Summarises all texts, CONCURRENCY at once, and writes each as it comes. */
async function summariseAll(
  client: Client,
  model: string,
  texts: string[],
  reply: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const left = texts.entries();
  const work = async () => {
    for (const [index, text] of left) {
      const outcome = await summarise(client, model, text, signal).then(
        (summary) => ({ index, summary }),
        (error: unknown) => ({ index, error: error instanceof VllamaError ? error.message : String(error) }),
      );
      if (signal.aborted) return;
      reply.write(`${JSON.stringify(outcome)}\n`);
    }
  };
  await Promise.all(Array.from({ length: Math.min(CONCURRENCY, texts.length) }, work));
}

async function textsOf(request: IncomingMessage): Promise<string[] | undefined> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) {
    body += chunk;
    if (body.length > BODY_LIMIT_BYTES) return undefined;
  }
  try {
    const { texts } = JSON.parse(body) as { texts?: unknown };
    return Array.isArray(texts) && texts.every((text) => typeof text === "string") ? texts : undefined;
  } catch {
    return undefined;
  }
}

/** Builds the service; the caller listens, and closes service and client. */
export function summaryService(client: Client, model: string): Server {
  return createServer((request, reply) => {
    const gone = new AbortController();
    reply.once("close", () => gone.abort());
    const answer = async () => {
      const texts = request.method === "POST" && request.url === "/summaries" ? await textsOf(request) : undefined;
      if (texts === undefined) return void reply.writeHead(400).end('POST /summaries takes {"texts": ["…"]}\n');
      reply.writeHead(200, { "content-type": "application/x-ndjson" });
      await summariseAll(client, model, texts, reply, gone.signal);
      reply.end();
    };
    answer().catch(() => reply.destroy());
  });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const client = new Client(process.env.VLLAMA_TARGET ?? "127.0.0.1:50051");
  const service = summaryService(client, process.env.VLLAMA_MODEL ?? "smollm2:135m");
  service.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => console.log("listening on", service.address()));
  process.once("SIGTERM", () => {
    service.close(() => client.close());
    service.closeIdleConnections();
  });
}
