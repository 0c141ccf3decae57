import {z} from 'zod';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import type {ChatMessage} from '../../../models/tokenizer.ts';
import {type CompletionRequest, common, parseBody, plainMessage, schemaOf} from './completionRequest.ts';

const part = z.object({type: z.enum(['input_text', 'output_text']), text: z.string()});
const item = z.object({
  type: z.literal('message').nullish(),
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content: z.union([z.string(), z.array(part)]),
});

const format = z.discriminatedUnion('type', [
  z.object({type: z.literal('text')}),
  z.object({type: z.literal('json_object')}),
  z.object({type: z.literal('json_schema'), schema: z.record(z.string(), z.unknown()).nullish()}),
]);

const responsesBody = z.looseObject({
  model: z.string().nullish(),
  input: z.union([z.string(), z.array(item).min(1)]),
  instructions: z.string().nullish(),
  max_output_tokens: z.int().min(1).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  text: z.object({format: format.nullish()}).nullish(),
  metadata: z.record(z.string(), z.string()).nullish(),
  stream: z.boolean().nullish(),
});

/** Keys that would change the answer, or what the server keeps, with the values that turn them off. */
const UNSUPPORTED: Record<string, unknown[]> = {
  previous_response_id: [],
  conversation: [],
  store: [false],
  background: [false],
  tools: [[]],
  tool_choice: ['none', 'auto'],
  max_tool_calls: [],
  prompt: [],
  reasoning: [{}, {effort: null}, {effort: null, summary: null}],
  include: [[]],
  top_logprobs: [0],
  truncation: ['disabled'],
};

/**
 * Reads the body of a request to `/v1/responses`. The instructions become the first system message. Nothing is stored:
 * a client sends the whole conversation as `input`.
 *
 * @throws ApiError 400 naming the key that is wrong or not supported
 */
export function parseResponsesRequest(body: unknown, defaults: GenerationConfig): CompletionRequest {
  const parsed = parseBody(responsesBody, body, UNSUPPORTED);
  const {input, instructions, max_output_tokens: maxTokens, metadata} = parsed;
  const items = typeof input === 'string' ? [{role: 'user' as const, content: input}] : input;
  const messages: ChatMessage[] = items.map(({role, content}) => plainMessage({role, content}));
  if (instructions) messages.unshift({role: 'system', content: instructions});
  const given = parsed.text?.format ?? {type: 'text' as const};
  const jsonSchema = schemaOf(given.type === 'json_schema' ? {...given, json_schema: given} : given);
  const request = common(parsed, defaults, maxTokens);
  return {
    kind: 'chat',
    messages,
    prompt: '',
    ...request,
    options: {...request.options, ...(jsonSchema !== undefined && {jsonSchema})},
    echo: {
      instructions: instructions ?? null,
      maxOutputTokens: maxTokens ?? null,
      format: given,
      metadata: metadata ?? {},
    },
  };
}
