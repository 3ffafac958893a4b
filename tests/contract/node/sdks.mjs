// The JavaScript clients of OpenAI and Anthropic: prints what they got as one JSON object.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [host, model] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${host}/v1`, apiKey: "any", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: host, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Count from one to fifty, in words." }];
const limits = { max_tokens: 8, temperature: 0 };

const chat = await openai.chat.completions.create({ model, messages, ...limits });
let streamed = "";
for await (const chunk of await openai.chat.completions.create({ model, messages, ...limits, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
}
const response = await openai.responses.stream({ model, input: "Count from one to fifty, in words.", max_output_tokens: 16 }).finalResponse();
const message = await anthropic.messages.create({ model, messages, max_tokens: 8 });
const final = await anthropic.messages.stream({ model, messages, max_tokens: 8 }).finalMessage();

const errors = [];
for (const ask of [
  () => openai.chat.completions.create({ model: "nope", messages }),
  () => anthropic.messages.create({ model: "nope", messages, max_tokens: 8 }),
]) {
  try {
    await ask();
  } catch (error) {
    errors.push([error.status, error.message]);
  }
}

console.log(
  JSON.stringify({
    chat: chat.choices[0].message.content,
    streamed,
    response: [response.status, response.output_text],
    message: [message.stop_reason, message.content[0].type],
    final: [final.stop_reason, final.usage.output_tokens],
    errors,
  }),
);
