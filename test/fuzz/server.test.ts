import {join} from 'node:path';
import {Llama, useBackend} from '../../src/index.ts';
import {type ModelServer, serveModel} from '../../src/tools/serve/serveModel.ts';
import {fuzz} from './fuzz.ts';
import {mutateJson} from './mutate.ts';

/* Requests to the server: whatever they are, an answer or an error of the client's, of bounded length. */

let model: Llama;
let server: ModelServer;

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(join(__dirname, '../../examples/quickstart/model'));
  server = await serveModel(model, {port: 0});
});
afterAll(async () => {
  await server.close();
  model.dispose();
});

const REQUESTS: Record<string, object> = {
  '/chat/completions': {
    model: 'model',
    messages: [
      {role: 'system', content: 'Be brief.'},
      {role: 'user', content: [{type: 'text', text: 'Who pays?'}], name: 'me'},
      {
        role: 'assistant',
        content: null,
        tool_calls: [{type: 'function', function: {name: 'f', arguments: '{}'}}],
      },
      {role: 'tool', content: '1', tool_call_id: 'a'},
    ],
    stream: false,
    stream_options: {include_usage: true},
    temperature: 0.5,
    top_p: 0.9,
    stop: ['a', 'b'],
    seed: 3,
    tools: [],
    response_format: {type: 'text'},
    logit_bias: {},
  },
  '/completions': {
    model: 'model',
    prompt: [1, 2, 3],
    temperature: 0,
    top_k: 5,
    min_p: 0.1,
    repetition_penalty: 1.1,
  },
};

/** At most two tokens: what is tried is the reading. */
function short(text: string): string {
  try {
    const body = JSON.parse(text);
    for (const key of ['max_tokens', 'max_completion_tokens']) {
      if (body[key] === undefined || body[key] === null || body[key] > 2) body[key] = 2;
    }
    return JSON.stringify(body);
  } catch {
    return text;
  }
}

const COUNT = 400;

test.each(Object.keys(REQUESTS))('%s', async (path) => {
  const target = {
    draw: (dice: Parameters<typeof mutateJson>[1]) => short(mutateJson(REQUESTS[path] as never, dice)),
    read: async (body: string) => {
      const headers = {'content-type': 'application/json'};
      const response = await fetch(`${server.url}${path}`, {method: 'POST', headers, body});
      const text = await response.text();
      if (response.status >= 500) throw new Error(`status ${response.status}: ${text}`);
      if (response.status !== 200 && text.length > 3000)
        throw new Error(`an answer of ${text.length} characters`);
    },
  };
  expect(await fuzz(`server ${path}`, target, COUNT)).toBeGreaterThan(0);
});
