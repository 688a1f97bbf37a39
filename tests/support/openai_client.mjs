// What a program with OpenAI's client for Node.js does. Prints a line of JSON for each thing that it tried.
// Arguments: the server's URL, a token.
import OpenAI from 'openai';

const [url, token] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: token, maxRetries: 0, timeout: 60_000 });
const asked = { model: 'router', messages: [{ role: 'user', content: '7 + 7 =' }] };
const show = (value) => console.log(JSON.stringify(value));

const reply = await client.chat.completions.create({ ...asked, router: { objective: { budget: 4 } } });
show({ text: reply.choices[0].message.content, answer: reply.router.answer, usage: reply.usage, bill: reply.router.bill });

let text = '';
let last;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  text += chunk.choices[0]?.delta.content ?? '';
  last = chunk;
}
show({ text, total: last.usage.total_tokens });

const rounds = [];
const shown = { stream: true, router: { arm: 'beam_search(n=4, m=2)', progress: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...shown })) {
  if (chunk.router?.progress) rounds.push(chunk.router.progress.number);
}
show(rounds);

const names = [];
for await (const model of client.models.list()) names.push(model.id);
show(names);

const failures = [
  () => client.chat.completions.create({ ...asked, model: 'gpt-4' }),
  () => client.chat.completions.create({ ...asked, router: { max_generated_tokens: 3 } }),
  () => client.chat.completions.create(asked, { timeout: 1, maxRetries: 0 }),
  () => new OpenAI({ baseURL: url, apiKey: 'guess' }).chat.completions.create(asked),
];
for (const attempt of failures) {
  try {
    await attempt();
    show('no error');
  } catch (error) {
    show({ kind: error.constructor.name, status: error.status, code: error.code });
  }
}

const id = reply.router.call_id;
show(await client.post('/router/outcomes', { body: { call_id: id, correct: true } }));
