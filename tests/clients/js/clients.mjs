// The official JavaScript clients against a gateway: node clients.mjs URL -> one JSON object on standard output.
import { Ollama } from "ollama";
import OpenAI from "openai";

const url = process.argv[2];
const model = "ramsey-model";
const question = "What is R(3,3)?";
const ollama = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const out = {};

const messages = [{ role: "user", content: question }];
const options = { temperature: 0 };

out.ollama_generate = (await ollama.generate({ model, prompt: question, options })).response;
out.ollama_chat = (await ollama.chat({ model, messages, options })).message.content;
out.ollama_stream = "";
out.ollama_stream_done = false;
for await (const part of await ollama.chat({ model, messages, options, stream: true })) {
  out.ollama_stream += part.message.content;
  out.ollama_stream_done = part.done;
}
out.ollama_embed = (await ollama.embed({ model, input: ["Ramsey theory", "a graph"] })).embeddings.map((v) => v.length);
out.ollama_models = (await ollama.list()).models.map((entry) => entry.name);
out.ollama_show = (await ollama.show({ model })).details.format;
out.ollama_json = (await ollama.chat({ model, messages, options, format: "json" })).message.content;
try {
  await ollama.chat({ model: "nobody", messages });
} catch (error) {
  out.ollama_error = { status: error.status_code, message: error.message };
}

out.openai_chat = (await openai.chat.completions.create({ model, messages, temperature: 0 })).choices[0].message.content;
const stream = await openai.chat.completions.create({
  model,
  messages,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
out.openai_stream = "";
for await (const chunk of stream) {
  out.openai_stream += chunk.choices[0]?.delta?.content ?? "";
  out.openai_finish = chunk.choices[0]?.finish_reason ?? out.openai_finish;
  out.openai_usage = chunk.usage ?? out.openai_usage;
}
out.openai_completion = (await openai.completions.create({ model, prompt: question, temperature: 0 })).choices[0].text;
out.openai_response = (await openai.responses.create({ model, input: question, temperature: 0 })).output_text;
out.openai_response_stream = "";
out.openai_events = [];
for await (const event of await openai.responses.create({ model, input: question, temperature: 0, stream: true })) {
  if (event.type === "response.output_text.delta") out.openai_response_stream += event.delta;
  else out.openai_events.push(event.type);
}
out.openai_embeddings = (await openai.embeddings.create({ model, input: ["one", "two"] })).data.map(
  (entry) => entry.embedding.length,
);
out.openai_models = (await openai.models.list()).data.map((entry) => entry.id);
try {
  await openai.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  out.openai_error = { status: error.status, code: error.code };
}
console.log(JSON.stringify(out));
