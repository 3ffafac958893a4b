// The Vercel AI SDK with a provider for Ollama: prints what it got as one JSON object.
globalThis.AI_SDK_LOG_WARNINGS = false;
import { embed, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";

const [host, model, scripted, embedder] = process.argv.slice(2);
const fleet = createOllama({ baseURL: `${host}/api` });
const script = createOllama({ baseURL: `${scripted}/api` });
const providerOptions = { ollama: { options: { num_predict: 8, temperature: 0 } } };

const whole = await generateText({ model: fleet(model), prompt: "Count from one to fifty, in words.", providerOptions });
const stream = streamText({ model: fleet(model), prompt: "Count from one to fifty, in words.", providerOptions });
let streamed = "";
for await (const text of stream.textStream) streamed += text;
const completion = await generateText({ model: fleet.completion(model), prompt: "Count from one to fifty, in words.", providerOptions });

const weather = tool({
  description: "Tells the weather.",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
});
const called = await generateText({ model: script("able"), prompt: "Weather in Kyiv?", tools: { weather } });
const schema = jsonSchema({ type: "object", properties: { name: { type: "string" } }, required: ["name"] });
const structured = await generateText({
  model: script("able"),
  prompt: "Which city?",
  output: Output.object({ schema }),
});

let unknown;
try {
  await generateText({ model: fleet("nope"), prompt: "hi", maxRetries: 0 });
} catch (error) {
  unknown = { status: error.statusCode, body: error.responseBody };
}
const vector = embedder ? (await embed({ model: fleet.embedding(embedder), value: "a" })).embedding : null;

console.log(
  JSON.stringify({
    whole: whole.text,
    streamed,
    completion: completion.text,
    outputTokens: whole.usage.outputTokens,
    finishReason: whole.finishReason,
    calls: called.toolCalls.map((call) => [call.toolName, call.input]),
    structured: structured.output,
    unknown,
    vectorLength: vector === null ? null : vector.length,
  }),
);
