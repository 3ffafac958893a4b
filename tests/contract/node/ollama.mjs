// The official JavaScript client: prints what it got as one JSON object.
import { Ollama } from "ollama";

const [host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const options = { num_predict: 8, temperature: 0 };
const messages = [{ role: "user", content: "Count from one to fifty, in words." }];

const chunks = [];
for await (const chunk of await client.chat({ model, messages, options, stream: true })) chunks.push(chunk);

let unknown;
try {
  await client.chat({ model: "nope", messages });
} catch (error) {
  unknown = { name: error.name, message: error.message, status: error.status_code };
}

const generated = [];
for await (const chunk of await client.generate({ model, prompt: "Count from one to fifty, in words.", options, stream: true })) generated.push(chunk);

const aborted = await client.chat({ model, messages, options: { num_predict: 500 }, stream: true });
let abortError = "";
try {
  for await (const _ of aborted) aborted.abort();
} catch (error) {
  abortError = error.name;
}

console.log(
  JSON.stringify({
    listed: (await client.list()).models.map((entry) => entry.model),
    running: (await client.ps()).models.map((entry) => entry.model),
    capabilities: (await client.show({ model })).capabilities,
    version: (await client.version()).version,
    whole: (await client.chat({ model, messages, options })).message.content,
    streamed: chunks.map((chunk) => chunk.message.content).join(""),
    done: chunks.map((chunk) => chunk.done),
    generated: generated.map((chunk) => chunk.response).join(""),
    unknown,
    abortError,
  }),
);
