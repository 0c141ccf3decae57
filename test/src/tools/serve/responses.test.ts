import {join} from 'node:path';
import OpenAI from 'openai';
import {generate} from '../../../../models/generation/generate.ts';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {type ModelServer, serveModel} from '../../../../src/tools/serve/serveModel.ts';

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
const QUESTION = 'Which agency runs the program, and until when?';

let model: Llama;
let server: ModelServer;
let client: OpenAI;

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(FOLDER);
  server = await serveModel(model, {port: 0});
  client = new OpenAI({baseURL: server.url, apiKey: 'unused', maxRetries: 0});
});
afterAll(async () => {
  await server.close();
  model.dispose();
});

const promptOf = (messages: {role: string; content: string}[]) =>
  (model.tokenizer as Tokenizer).encodeChat(messages as never, {addGenerationPrompt: true});

describe('responses', () => {
  test("have the model's answer to a text with instructions", async () => {
    const response = await client.responses.create({
      model: 'model',
      instructions: 'Be brief.',
      input: QUESTION,
      max_output_tokens: 5,
      temperature: 0,
      metadata: {run: '7'},
    });
    const prompt = promptOf([
      {role: 'system', content: 'Be brief.'},
      {role: 'user', content: QUESTION},
    ]);
    expect(response.output_text).toBe(await generate(model, prompt, {maxNewTokens: 5}));
    expect(response).toMatchObject({
      object: 'response',
      status: 'incomplete',
      incomplete_details: {reason: 'max_output_tokens'},
      instructions: 'Be brief.',
      metadata: {run: '7'},
      store: false,
      temperature: 0,
      usage: {input_tokens: prompt.length, output_tokens: 5, total_tokens: prompt.length + 5},
    });
  });

  test('continue a conversation of messages and parts', async () => {
    const response = await client.responses.create({
      model: 'model',
      input: [
        {
          role: 'user',
          content: [
            {type: 'input_text', text: 'Who '},
            {type: 'input_text', text: 'pays?'},
          ],
        },
        {role: 'assistant', content: 'The agency.'},
        {role: 'user', content: QUESTION},
      ],
      max_output_tokens: 5,
      temperature: 0,
    });
    const prompt = promptOf([
      {role: 'user', content: 'Who pays?'},
      {role: 'assistant', content: 'The agency.'},
      {role: 'user', content: QUESTION},
    ]);
    expect(response.output_text).toBe(await generate(model, prompt, {maxNewTokens: 5}));
  });

  test("stream OpenAI's events in order", async () => {
    const request = {model: 'model', input: QUESTION, max_output_tokens: 6, temperature: 0};
    const whole = await client.responses.create(request);
    const types: string[] = [];
    let text = '';
    let last: {response: {output_text?: string; status?: string; output: unknown[]}} | undefined;
    let sequence = 0;
    for await (const event of await client.responses.create({...request, stream: true})) {
      expect(event.sequence_number).toBe(sequence++);
      if (types.at(-1) !== event.type) types.push(event.type);
      if (event.type === 'response.output_text.delta') text += event.delta;
      if (event.type === 'response.incomplete') last = event as never;
    }
    expect(types).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.incomplete',
    ]);
    expect(text).toBe(whole.output_text);
    expect(last?.response.output).toMatchObject([{content: [{type: 'output_text', text}]}]);
  });

  test('fit a JSON schema', async () => {
    const schema = {
      type: 'object',
      properties: {years: {type: 'array', items: {type: 'integer'}, maxItems: 2}},
      required: ['years'],
      additionalProperties: false,
    };
    const {output_text, status} = await client.responses.create({
      model: 'model',
      input: QUESTION,
      temperature: 0,
      text: {format: {type: 'json_schema', name: 'years', schema}},
    });
    expect(JSON.parse(output_text)).toEqual({years: expect.any(Array)});
    expect(status).toBe('completed');
  });

  test.each([
    [{previous_response_id: 'resp_1'}, 'previous_response_id: expected none, got "resp_1"'],
    [{store: true}, 'store: expected none or false, got true'],
    [{tools: [{type: 'web_search'}]}, 'tools: expected none or []'],
    [{input: [{type: 'function_call_output', call_id: 'x', output: '1'}]}, 'input'],
    [{text: {format: {type: 'json_schema', name: 'x', schema: {pattern: 'a'}}}}, 'text.format.schema'],
  ])('refuse %j by name', async (extra, message) => {
    const request = {model: 'model', input: QUESTION, ...extra} as never;
    await expect(client.responses.create(request)).rejects.toMatchObject({
      status: 400,
      message: expect.stringContaining(message),
    });
  });
});
