import {request as httpRequest} from 'node:http';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import OpenAI from 'openai';
import {generate, generateIds} from '../../../../models/generation/generate.ts';
import type {StreamTokensOptions} from '../../../../models/generation/generateOptions.ts';
import type {GeneratedToken} from '../../../../models/generation/row.ts';
import type {LlamaForCausalLM} from '../../../../models/llama/llama.ts';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {RequestBatch} from '../../../../src/tools/serve/requestBatch.ts';
import {
  type ModelServer,
  type RequestReport,
  type ServeOptions,
  serveModel,
} from '../../../../src/tools/serve/serveModel.ts';
import {inFolder, stirAdapter} from '../../../models/tinyLlama.ts';

/* A server and the official client, on the tiny model of the quickstart. */

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
const messages = [{role: 'user' as const, content: 'Which agency runs the program, and until when?'}];
const noEnd = [2047]; // never generated: as the only end token, it lets answers reach their full length

let model: Llama;
let tokenizer: Tokenizer;
let server: ModelServer;
let client: OpenAI;
let reports: RequestReport[];

async function start(options: ServeOptions = {}): Promise<void> {
  reports = [];
  server = await serveModel(model, {port: 0, onRequest: (report) => reports.push(report), ...options});
  client = new OpenAI({baseURL: server.url, apiKey: options.apiKey ?? 'unused', maxRetries: 0});
}

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(FOLDER);
  tokenizer = model.tokenizer as Tokenizer;
  model.applyLoRA({adapterName: 'stirred', rank: 2});
  stirAdapter(model as LlamaForCausalLM, 'stirred');
  model.setAdapter([]);
});
beforeEach(() => start());
afterEach(() => server.close());
afterAll(() => {
  model.dispose();
});

const promptIds = () => tokenizer.encodeChat(messages, {addGenerationPrompt: true});
const answerOf = async (adapter: string | undefined, maxNewTokens: number) => {
  model.setAdapter(adapter ?? []);
  return generate(model, promptIds(), {maxNewTokens});
};

describe('chat completions of JSON', () => {
  const schema = {
    type: 'object',
    properties: {
      agency: {type: 'string', maxLength: 12},
      years: {type: 'array', items: {type: 'integer'}, maxItems: 2},
    },
    required: ['agency', 'years'],
    additionalProperties: false,
  };
  const format = {type: 'json_schema', json_schema: {name: 'answer', strict: true, schema}} as const;

  test('fit the schema, whole and as a stream', async () => {
    const request = {model: 'model', messages, response_format: format, temperature: 0};
    const {choices} = await client.chat.completions.create(request);
    const answer = JSON.parse(choices[0].message.content as string);
    expect(answer).toEqual({agency: expect.any(String), years: expect.any(Array)});
    expect(choices[0].finish_reason).toBe('stop');
    let text = '';
    for await (const chunk of await client.chat.completions.create({...request, stream: true}))
      text += chunk.choices[0].delta.content ?? '';
    expect(text).toBe(choices[0].message.content);
  });

  test('may be any object', async () => {
    const {choices} = await client.chat.completions.create({
      model: 'model',
      messages,
      response_format: {type: 'json_object'},
      seed: 1,
      max_tokens: 150,
    });
    const {content} = choices[0].message;
    expect(content).toMatch(/^\{/);
    if (choices[0].finish_reason === 'stop') expect(typeof JSON.parse(content as string)).toBe('object');
  });
});

describe('log probabilities', () => {
  const request = {model: 'model', messages, max_completion_tokens: 5, logprobs: true, top_logprobs: 3};

  test("are the model's own, with the likeliest tokens", async () => {
    const {choices} = await client.chat.completions.create({...request, temperature: 0});
    const content = choices[0].logprobs?.content ?? [];
    expect(content.map(({token}) => token).join('')).toBe(choices[0].message.content);
    const ids = promptIds();
    for (const {token, logprob, bytes, top_logprobs} of content) {
      const row = tf.tidy(() => {
        const logits = model.predict([ids]).squeeze([0]) as tf.Tensor2D;
        return tf
          .logSoftmax(logits)
          .slice([ids.length - 1, 0], [1, -1])
          .dataSync();
      });
      const order = [...row.keys()].sort((a, b) => row[b] - row[a]);
      expect(logprob).toBeCloseTo(row[order[0]], 4); // greedy
      expect(top_logprobs.map((each) => each.token)).toEqual(
        order.slice(0, 3).map((id) => tokenizer.decode([id])),
      );
      expect(top_logprobs[2].logprob).toBeCloseTo(row[order[2]], 4);
      expect(new TextDecoder().decode(Uint8Array.from(bytes ?? []))).toBe(token);
      ids.push(order[0]);
    }
    expect(content).toHaveLength(5);
  });

  test('come with the pieces of a stream, and without alternatives unless requested', async () => {
    const {choices} = await client.chat.completions.create({...request, seed: 1, top_logprobs: 0});
    const streamed: unknown[] = [];
    for await (const chunk of await client.chat.completions.create({
      ...request,
      seed: 1,
      top_logprobs: 0,
      stream: true,
    }))
      streamed.push(...(chunk.choices[0].logprobs?.content ?? []));
    expect(streamed).toEqual(choices[0].logprobs?.content);
    expect(streamed[0]).toMatchObject({top_logprobs: []});
  });
});

describe('chat completions', () => {
  test("have the model's answers, with the numbers of tokens", async () => {
    const completion = await client.chat.completions.create({
      model: 'model',
      messages,
      temperature: 0,
      max_completion_tokens: 6,
    });
    expect(completion.choices).toEqual([
      {
        index: 0,
        message: {role: 'assistant', content: await answerOf(undefined, 6), refusal: null},
        logprobs: null,
        finish_reason: 'length',
      },
    ]);
    expect(completion).toMatchObject({object: 'chat.completion', model: 'model'});
    expect(completion.id).toMatch(/^chatcmpl-/);
    const prompt_tokens = promptIds().length;
    expect(completion.usage).toEqual({prompt_tokens, completion_tokens: 6, total_tokens: prompt_tokens + 6});
    expect(reports).toEqual([
      {
        method: 'POST',
        path: '/v1/chat/completions',
        status: 200,
        promptTokens: prompt_tokens,
        completionTokens: 6,
        seconds: expect.any(Number),
      },
    ]);
  });

  test('stream in pieces that add up to the same answer', async () => {
    const stream = await client.chat.completions.create({
      model: 'model',
      messages,
      temperature: 0,
      max_tokens: 40,
      stream: true,
      stream_options: {include_usage: true},
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(new Set(chunks.map(({id}) => id)).size).toBe(1);
    expect(chunks[0].choices[0].delta).toEqual({role: 'assistant', content: ''});
    const pieces = chunks.flatMap(({choices}) => choices.map(({delta}) => delta.content ?? ''));
    expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(3);
    expect(pieces.join('')).toBe(await answerOf(undefined, 40));
    const reasons = chunks.flatMap(({choices}) => choices.map(({finish_reason}) => finish_reason));
    expect(reasons.filter((reason) => reason !== null)).toEqual(['stop']); // the answer ends by itself
    const ids = await generateIds(model, promptIds(), {maxNewTokens: 40});
    expect(chunks.at(-1)).toMatchObject({choices: [], usage: {completion_tokens: ids.length}});
  });

  test('accept stop, seed, temperature and top_p', async () => {
    const ask = async (settings: object) => {
      const body = {model: 'model', messages, max_tokens: 24, ...settings};
      const {choices} = await client.chat.completions.create(
        body as OpenAI.ChatCompletionCreateParamsNonStreaming,
      );
      return choices[0];
    };
    const whole = (await ask({temperature: 0})).message.content!;
    const stop = whole.slice(4, 7);
    const stopped = await ask({temperature: 0, stop: [stop, 'nowhere in it']});
    expect(stopped.message.content).toBe(whole.slice(0, whole.indexOf(stop)));
    expect(stopped.finish_reason).toBe('stop');
    const sampled = await Promise.all([5, 5, 6].map((seed) => ask({temperature: 2, seed})));
    const [first, again, other] = sampled.map(({message}) => message.content);
    expect(again).toBe(first);
    expect(other).not.toBe(first);
    expect((await ask({temperature: 2, top_p: 1e-9})).message.content).toBe(whole);
    expect((await ask({temperature: 2, top_k: 1})).message.content).toBe(whole);
  });

  test('come from the base or an adapter by name, and from the newest adapter without a name', async () => {
    const ask = async (name?: string) => {
      const body = {model: name, messages, temperature: 0, max_tokens: 5};
      const {model: answered, choices} = await client.chat.completions.create(
        body as OpenAI.ChatCompletionCreateParamsNonStreaming,
      );
      return [answered, choices[0].message.content];
    };
    const [base, adapted] = [await answerOf(undefined, 5), await answerOf('stirred', 5)];
    expect(adapted).not.toBe(base);
    expect(await ask('stirred')).toEqual(['stirred', adapted]);
    expect(await ask('model')).toEqual(['model', base]);
    expect(await ask()).toEqual(['stirred', adapted]);
  });

  test('accept text parts and the developer role', async () => {
    const {usage} = await client.chat.completions.create({
      model: 'model',
      max_tokens: 1,
      messages: [
        {role: 'developer', content: 'Be brief.'},
        {
          role: 'user',
          content: [
            {type: 'text', text: 'Who '},
            {type: 'text', text: 'pays?'},
          ],
        },
      ],
    });
    const same = [
      {role: 'system', content: 'Be brief.'},
      {role: 'user', content: 'Who pays?'},
    ];
    expect(usage!.prompt_tokens).toBe(tokenizer.encodeChat(same, {addGenerationPrompt: true}).length);
  });
});

test('completions continue a text or token ids', async () => {
  const prompt = 'The Secretary may award grants to';
  const expected = await generate(model, prompt, {maxNewTokens: 4, adapterNames: '__base__'});
  for (const given of [prompt, tokenizer.encode(prompt), [prompt]]) {
    const {choices, object} = await client.completions.create({
      model: 'model',
      prompt: given,
      max_tokens: 4,
      temperature: 0,
    });
    expect([object, choices[0].text]).toEqual(['text_completion', expected]);
  }
  let text = '';
  const stream = await client.completions.create({
    model: 'model',
    prompt,
    max_tokens: 4,
    temperature: 0,
    stream: true,
  });
  for await (const {choices} of stream) text += choices[0].text;
  expect(text).toBe(expected);
});

test('models are listed: the base, then the adapters', async () => {
  const list = await client.models.list();
  expect(list.data.map(({id}) => id)).toEqual(['model', 'stirred']);
  expect(await client.models.retrieve('stirred')).toMatchObject({
    object: 'model',
    parent: 'model',
    max_model_len: 512,
  });
  await expect(client.models.retrieve('nothing')).rejects.toMatchObject({
    status: 404,
    code: 'model_not_found',
  });
});

describe('order', () => {
  beforeEach(async () => {
    await server.close();
    await start({maxBatchSize: 1});
  });

  test('requests are answered one at a time, in their order', async () => {
    const forward = jest.spyOn(model, 'forward');
    const streams: AsyncIterable<OpenAI.ChatCompletionChunk>[] = [];
    for (const max_tokens of [6, 5, 4]) {
      // Headers are sent immediately, so this request has arrived before the next one is sent.
      const body = {model: 'model', messages, max_tokens, temperature: 0, stream: true} as const;
      streams.push(await client.chat.completions.create(body));
    }
    await Promise.all(
      streams.map(async (stream) => {
        for await (const _ of stream);
      }),
    );
    expect(reports.map(({completionTokens}) => completionTokens)).toEqual([6, 5, 4]);
    // Each pass has one row, so nothing was answered together.
    expect(forward.mock.calls.every(([ids]) => ids.shape[0] === 1)).toBe(true);
    forward.mockRestore();
  });

  test('a dropped connection stops its answer, and a waiting one never starts', async () => {
    model.generationConfig = {...model.generationConfig, eosTokenId: noEnd};
    const passes = jest.spyOn(model, 'forward');
    try {
      const stream = await client.chat.completions.create({
        model: 'model',
        messages,
        max_tokens: 400,
        stream: true,
      });
      const waiting = await client.chat.completions.create({
        model: 'model',
        messages,
        max_tokens: 400,
        stream: true,
      });
      let pieces = 0;
      for await (const _ of stream) if (++pieces === 3) break; // the client closes the connection
      waiting.controller.abort();
      const {usage} = await client.chat.completions.create({model: 'model', messages, max_tokens: 2});
      expect(usage!.completion_tokens).toBe(2);
      expect(passes.mock.calls.length).toBeLessThan(100);
      expect(reports.map(({status}) => status).sort()).toEqual([200, 499, 499]);
    } finally {
      passes.mockRestore();
      model.generationConfig = {...model.generationConfig, eosTokenId: 2046};
    }
  });

  test('closing stops the current answer and frees the port', async () => {
    model.generationConfig = {...model.generationConfig, eosTokenId: noEnd};
    try {
      const stream = await client.chat.completions.create({
        model: 'model',
        messages,
        max_tokens: 400,
        stream: true,
      });
      const read = (async () => {
        for await (const _ of stream);
      })();
      read.catch(() => {});
      await server.close();
      await expect(client.models.list()).rejects.toThrow('Connection error');
      const {port} = server;
      await start({port});
      expect(server.port).toBe(port);
    } finally {
      model.generationConfig = {...model.generationConfig, eosTokenId: 2046};
    }
  });
});

describe('requests that are answered together', () => {
  let batch: RequestBatch;
  let forward: jest.SpyInstance;
  const {signal} = new AbortController();
  const ids = (content: string) =>
    tokenizer.encodeChat([{role: 'user', content}], {addGenerationPrompt: true});
  const rows = () => forward.mock.calls.map(([inputIds]) => (inputIds as tf.Tensor).shape[0]);
  const textOf = async (tokens: AsyncIterable<GeneratedToken>) => {
    let text = '';
    for await (const {piece, finishReason} of tokens)
      text += piece + (finishReason ? ` ${finishReason}` : '');
    return text;
  };
  beforeEach(() => {
    batch = new RequestBatch(model, 4);
    forward = jest.spyOn(model, 'forward');
  });
  afterEach(() => forward.mockRestore());

  test('have what each would have alone, whichever adapters and settings they name', async () => {
    const requests: [string, StreamTokensOptions][] = [
      ['Which agency runs the program?', {adapterNames: '__base__', maxNewTokens: 4}],
      ['Who pays?', {adapterNames: 'stirred', maxNewTokens: 12}],
      ['Since when?', {adapterNames: '__base__', doSample: true, temperature: 1.5, seed: 4, maxNewTokens: 8}],
      ['Who?', {adapterNames: 'stirred', doSample: true, seed: 4, stopStrings: ['e'], alternatives: 1}],
    ];
    const ask = ([content, options]: (typeof requests)[number]) =>
      textOf(batch.answer(ids(content), options, signal));
    const alone = [];
    for (const request of requests) alone.push(await ask(request));
    forward.mockClear();
    expect(await Promise.all(requests.map(ask))).toEqual(alone);
    expect(rows()[0]).toBe(4);
    await Promise.all(
      ['model', 'stirred'].map(async (name) => {
        // over HTTP
        const request = {model: name, messages, temperature: 0, max_tokens: 5};
        const {choices} = await client.chat.completions.create(request);
        const adapterNames = name === 'model' ? '__base__' : name;
        expect(choices[0].message.content).toBe(
          await generate(model, promptIds(), {adapterNames, maxNewTokens: 5}),
        );
      }),
    );
  });

  test('join and leave between two tokens, as many as fit', async () => {
    const options = {adapterNames: '__base__', maxNewTokens: 20, eosTokenId: noEnd};
    const short = {...options, adapterNames: 'stirred', maxNewTokens: 3};
    const [expected, expectedShort] = [
      await textOf(batch.answer(ids('Who pays?'), options, signal)),
      await textOf(batch.answer(ids('Since when, and who?'), short, signal)),
    ];
    forward.mockClear();
    batch = new RequestBatch(model, 2);
    const joined: Promise<string>[] = [];
    let text = '';
    for await (const {piece, finishReason} of batch.answer(ids('Who pays?'), options, signal)) {
      text += piece + (finishReason ? ` ${finishReason}` : '');
      if (joined.length < 3) joined.push(textOf(batch.answer(ids('Since when, and who?'), short, signal)));
    }
    expect(text).toBe(expected);
    expect(await Promise.all(joined)).toEqual([expectedShort, expectedShort, expectedShort]);
    // The three others run one after another beside the first one: a pass over the prompt, and two of both.
    expect(rows().join('')).toMatch(/^1+(1221?){3}1+$/);

    forward.mockClear(); // 3 × 200 positions do not fit the model's 512
    const long = () => textOf(batch.answer(new Array(200).fill(5), short, signal));
    batch = new RequestBatch(model, 4);
    await Promise.all([long(), long(), long()]);
    expect(Math.max(...rows())).toBe(2);
  });

  test('end with their own error, and changes of the model wait for them', async () => {
    const options = {adapterNames: '__base__', maxNewTokens: 6, eosTokenId: noEnd};
    const expected = await textOf(batch.answer(ids('Who pays?'), options, signal));
    const abort = new AbortController();
    const events: string[] = [];
    const first = textOf(batch.answer(ids('Who pays?'), options, signal)).then((text) => {
      events.push('first');
      return text;
    });
    const aborted = textOf(batch.answer(ids('Who?'), options, abort.signal));
    const unknown = textOf(batch.answer(ids('Who?'), {...options, adapterNames: 'gone'}, signal));
    const change = batch.change(async () => events.push('change'));
    const later = textOf(batch.answer(ids('Who pays?'), options, signal)).then(() => events.push('later'));
    abort.abort();
    await expect(aborted).rejects.toThrow('aborted');
    await expect(unknown).rejects.toMatchObject({code: 'UNKNOWN_ADAPTER'});
    expect(await first).toBe(expected);
    await Promise.all([change, later]);
    expect(events).toEqual(['first', 'change', 'later']);
    await expect(batch.change(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    await batch.idle();
    await expect(start({maxBatchSize: 0})).rejects.toMatchObject({code: 'INVALID_ARGUMENT'});
  });
});

test('requests load, replace and unload adapters, if they may', async () => {
  const send = async (path: string, body: object) => {
    const response = await fetch(`${server.url}/${path}`, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify(body),
    });
    return [response.status, await response.json()];
  };
  await inFolder(async (folder) => {
    await model.saveAdapter(folder, 'stirred');
    const load = {lora_name: 'loaded', lora_path: folder};
    expect((await send('load_lora_adapter', load))[0]).toBe(404);
    await server.close();
    await start({allowAdapterChanges: true});
    expect(await send('load_lora_adapter', load)).toEqual([200, {message: 'loaded loaded'}]);
    const request = {messages, temperature: 0, max_tokens: 4};
    const answers = ['loaded', 'stirred'].map((name) =>
      client.chat.completions.create({...request, model: name}),
    );
    const [loaded, stirred] = (await Promise.all(answers)).map(({choices}) => choices[0].message.content);
    expect(loaded).toBe(stirred);
    expect((await send('load_lora_adapter', load))[0]).toBe(400);
    expect((await send('load_lora_adapter', {...load, load_inplace: true}))[1]).toEqual({
      message: 'replaced loaded',
    });
    expect((await send('load_lora_adapter', {lora_name: 'x', lora_path: join(folder, 'none')}))[0]).toBe(400);
    expect(await send('unload_lora_adapter', {lora_name: 'loaded'})).toEqual([
      200,
      {message: 'unloaded loaded'},
    ]);
    expect((await send('unload_lora_adapter', {lora_name: 'model'}))[0]).toBe(404);
    expect(server.models).toEqual(['model', 'stirred']);
  });
});

test('an adapter that was deleted before its request began is not found', async () => {
  await server.close();
  model.applyLoRA({adapterName: 'gone', rank: 2});
  await start();
  model.deleteAdapter('gone');
  const error = await client.chat.completions.create({model: 'gone', messages}).catch((reason) => reason);
  expect(error).toMatchObject({status: 404, code: 'model_not_found'});
});

test('the base answers for itself while its first adapter is loaded', async () => {
  const request = {model: 'model', messages, temperature: 0, max_tokens: 4};
  const {choices: expected} = await client.chat.completions.create(request);
  await server.close();
  const {loadAdapter} = model;
  await inFolder(async (folder) => {
    await model.saveAdapter(folder, 'stirred');
    model.deleteAdapter('stirred');
    let encoded = () => {};
    const isEncoded = new Promise<void>((resolve) => {
      encoded = resolve;
    });
    const encodeChat: ServeOptions['encodeChat'] = (given) => {
      encoded();
      return tokenizer.encodeChat(given, {addGenerationPrompt: true});
    };
    let answer: Promise<unknown> | undefined;
    model.loadAdapter = async (...args) => {
      answer = client.chat.completions.create(request).then(({choices}) => choices[0].message.content);
      await isEncoded;
      return await loadAdapter.apply(model, args);
    };
    await start({allowAdapterChanges: true, encodeChat});
    await fetch(`${server.url}/load_lora_adapter`, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({lora_name: 'stirred', lora_path: folder}),
    });
    expect(await answer).toBe(expected[0].message.content);
  });
  model.loadAdapter = loadAdapter;
});

test('answers keep no tensors, even if the connection drops', async () => {
  const before = tf.memory().numTensors;
  await client.chat.completions.create({model: 'stirred', messages, max_tokens: 3});
  const stream = await client.chat.completions.create({
    model: 'model',
    messages,
    max_tokens: 300,
    stream: true,
  });
  for await (const _ of stream) break;
  await server.close();
  expect(tf.memory().numTensors).toBe(before);
  await start();
});

describe("errors have OpenAI's format", () => {
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${server.url}${path}`, {
      method: 'POST',
      headers: {'Content-Type': 'application/json', ...headers},
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });

  test.each([
    ['no messages', {}, 'messages', 'invalid_value'],
    ['an empty list of messages', {messages: []}, 'messages', 'invalid_value'],
    ['a wrong role', {messages: [{role: 'me', content: 'x'}]}, 'messages[0].role', 'invalid_value'],
    ['a wrong type', {messages, max_tokens: 'many'}, 'max_tokens', 'invalid_value'],
    ['too high a temperature', {messages, temperature: 3}, 'temperature', 'invalid_value'],
    ['no token', {messages, max_tokens: 0}, 'max_tokens', 'invalid_value'],
    ['several answers', {messages, n: 2}, 'n', 'unsupported_parameter'],
    ['tools', {messages, tools: [{type: 'function'}]}, 'tools', 'unsupported_parameter'],
    [
      'a schema of keywords that cannot be enforced',
      {
        messages,
        response_format: {
          type: 'json_schema',
          json_schema: {name: 'a', schema: {type: 'string', pattern: 'a'}},
        },
      },
      'response_format',
      'invalid_value',
    ],
    ['alternatives alone', {messages, top_logprobs: 2}, 'top_logprobs', 'invalid_value'],
    [
      'a long prompt',
      {messages: [{role: 'user', content: 'bill '.repeat(600)}]},
      'messages',
      'context_length_exceeded',
    ],
  ])('%s', async (_, body, param, code) => {
    const response = await post('/chat/completions', {model: 'model', ...body});
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({
      error: {message: expect.stringContaining(param), type: 'invalid_request_error', param, code},
    });
    expect(reports).toMatchObject([{status: 400, error: expect.any(String)}]);
  });

  test('the client turns them into its own errors', async () => {
    const unknown = client.chat.completions.create({model: 'gpt-5', messages});
    await expect(unknown).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    await expect(unknown).rejects.toThrow('model "gpt-5": expected one of model, stirred');
    const hot = client.chat.completions.create({model: 'model', messages, temperature: 9});
    await expect(hot).rejects.toBeInstanceOf(OpenAI.BadRequestError);
  });

  test('a body that is not JSON or too long, a wrong method, and an unknown path', async () => {
    expect((await post('/chat/completions', '{"model":')).status).toBe(400);
    const plain = await post('/chat/completions', {messages}, {'Content-Type': 'text/plain'});
    expect(plain.status).toBe(415);
    expect(await plain.text()).toContain("(curl: -H 'Content-Type: application/json')");
    expect((await fetch(`${server.url}/chat/completions`)).status).toBe(405);
    const embeddings = await fetch(`${server.url}/embeddings`);
    expect(embeddings.status).toBe(404);
    expect(await embeddings.text()).toContain('expected one of /v1/chat/completions, /v1/completions, ');
    expect((await fetch(`${server.url}/models/%`)).status).toBe(404);
    await server.close();
    await start({maxBodyBytes: 1000});
    expect((await post('/chat/completions', {messages, user: 'x'.repeat(2000)})).status).toBe(413);
    expect((await fetch(server.url.replace('/v1', '/health'))).status).toBe(200);
  });

  test('a failure while answering, whole and streamed', async () => {
    const forward = jest.spyOn(model, 'forward').mockImplementation(() => {
      throw new Error('secret of the machine');
    });
    try {
      const response = await post('/chat/completions', {messages});
      expect(response.status).toBe(500);
      expect(await response.json()).toEqual({
        error: {message: 'Internal server error.', type: 'server_error', param: null, code: null},
      });
      const stream = await client.chat.completions.create({model: 'model', messages, stream: true});
      await expect(
        (async () => {
          for await (const _ of stream);
        })(),
      ).rejects.toThrow('Internal server error.');
      expect(reports.map(({error}) => error)).toEqual(['secret of the machine', 'secret of the machine']);
    } finally {
      forward.mockRestore();
    }
    const {choices} = await client.chat.completions.create({model: 'model', messages, max_tokens: 1});
    expect(choices).toHaveLength(1); // the next request is answered
  });
});

test('a key is required if one is set', async () => {
  await server.close();
  await start({apiKey: 'let me in'});
  expect((await client.models.list()).data).toHaveLength(2);
  const stranger = new OpenAI({baseURL: server.url, apiKey: 'open up', maxRetries: 0});
  await expect(stranger.models.list()).rejects.toMatchObject({status: 401, code: 'invalid_api_key'});
});

test('a request for another host name is refused, because it may come from a web page', async () => {
  const status = await new Promise((resolve) => {
    httpRequest(`${server.url}/models`, {headers: {Host: 'evil.example:80'}}, ({statusCode}) =>
      resolve(statusCode),
    ).end();
  });
  expect(status).toBe(403);
});

test('a model without a tokenizer cannot be served, and a port in use is an error', async () => {
  const bare = Llama.fromConfig({...model.config, vocabSize: 2048});
  await expect(serveModel(bare, {port: 0})).rejects.toMatchObject({code: 'UNSUPPORTED'});
  bare.dispose();
  await expect(serveModel(model, {port: server.port})).rejects.toMatchObject({code: 'EADDRINUSE'});
});
