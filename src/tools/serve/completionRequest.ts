import {isDeepStrictEqual} from 'node:util';
import {z} from 'zod';
import type {GenerateOptions} from '../../../models/generation/generateOptions.ts';
import type {JsonSchema} from '../../../models/generation/json/jsonGrammar.ts';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import type {ChatMessage} from '../../../models/tokenizer.ts';
import {show} from '../../../quant/show.ts';
import {ApiError} from './apiError.ts';

/** The keys of both kinds of completions. A null means the same as no value, as in OpenAI's API. */
const sampling = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({include_usage: z.boolean().nullish()}).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(4)]).nullish(),
  seed: z.int().nullish(),
  // These are not OpenAI's, but other servers of open models accept them too.
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
};

const textPart = z.object({type: z.literal('text'), text: z.string()});
const message = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z.union([z.string(), z.array(textPart)]).nullish(),
});

const responseFormat = z.discriminatedUnion('type', [
  z.object({type: z.literal('text')}),
  z.object({type: z.literal('json_object')}),
  z.object({
    type: z.literal('json_schema'),
    json_schema: z.object({schema: z.record(z.string(), z.unknown()).nullish()}),
  }),
]);

const chatBody = z.looseObject({
  ...sampling,
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  response_format: responseFormat.nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  messages: z.array(message).min(1),
});
const textBody = z.looseObject({
  ...sampling,
  prompt: z.union([z.string(), z.array(z.int().min(0)).min(1), z.array(z.string()).length(1)]),
});

type Sampling = z.infer<z.ZodObject<typeof sampling>>;

/** Keys of OpenAI's API that would change the answer and are not supported, with the values that turn them off. */
const UNSUPPORTED: Record<string, unknown[]> = {
  n: [1],
  best_of: [1],
  logprobs: [false, 0],
  top_logprobs: [0],
  echo: [false],
  suffix: [''],
  tools: [[]],
  tool_choice: ['none', 'auto'],
  functions: [[]],
  function_call: ['none', 'auto'],
  response_format: [{type: 'text'}],
  presence_penalty: [0],
  frequency_penalty: [0],
  logit_bias: [{}],
  modalities: [['text']],
  audio: [],
};

/** What a response of `/v1/responses` repeats of its request. */
export interface ResponsesEcho {
  instructions: string | null;
  maxOutputTokens: number | null;
  format: {type: string};
  metadata: Record<string, string>;
}

/** A request for a completion. */
export interface CompletionRequest {
  kind: 'chat' | 'text';
  /** Name of the model. Default: the server's default model. */
  model?: string;
  /** Messages of a chat; empty for a text. */
  messages: ChatMessage[];
  /** Text to continue, or its token ids; empty for a chat. */
  prompt: string | number[];
  isStreamed: boolean;
  /** Whether a stream ends with the numbers of tokens. */
  includesUsage: boolean;
  /** Number of likeliest tokens to report with each token; 0 reports its own probability only. Default: neither. */
  alternatives?: number;
  /** What the response repeats, in `/v1/responses` only. */
  echo?: ResponsesEcho;
  /** Generation options. The model's own generation config applies to options that are not set. */
  options: GenerateOptions;
}

/**
 * Reads the body of a request for a chat.
 *
 * @throws ApiError 400 naming the key that is wrong or not supported
 */
export function parseChatRequest(body: unknown, defaults: GenerationConfig): CompletionRequest {
  const {logprobs: _, top_logprobs: __, response_format: ___, ...unsupported} = UNSUPPORTED;
  const parsed = parseBody(chatBody, body, unsupported);
  const messages = parsed.messages.map(plainMessage);
  const maxTokens = parsed.max_completion_tokens ?? parsed.max_tokens;
  const {logprobs, top_logprobs: count} = parsed;
  if (count && !logprobs) {
    throw new ApiError(
      400,
      `top_logprobs: expected logprobs with it, got ${show(logprobs)}.`,
      'top_logprobs',
      'invalid_value',
    );
  }
  const request = common(parsed, defaults, maxTokens);
  const jsonSchema = schemaOf(parsed.response_format ?? {type: 'text'});
  return {
    kind: 'chat',
    messages,
    prompt: '',
    ...request,
    ...(logprobs && {alternatives: count ?? 0}),
    options: {...request.options, ...(jsonSchema !== undefined && {jsonSchema})},
  };
}

/** Returns a message with its parts joined, as templates take it. */
export function plainMessage<T extends {role: string; content?: string | {text: string}[] | null}>({
  role,
  content,
  ...others
}: T) {
  return {
    ...others,
    role: role === 'developer' ? 'system' : role,
    content: Array.isArray(content) ? content.map(({text}) => text).join('') : (content ?? ''),
  };
}

/** Returns the schema of the answer, or undefined for any text. */
export function schemaOf(format: z.infer<typeof responseFormat>): JsonSchema | undefined {
  if (format.type === 'json_object') return {type: 'object'};
  return format.type === 'json_schema' ? (format.json_schema.schema ?? true) : undefined;
}

/** Reads the body of a request to continue a text, as {@link parseChatRequest} does for a chat. */
export function parseTextRequest(body: unknown, defaults: GenerationConfig): CompletionRequest {
  const parsed = parseBody(textBody, body, UNSUPPORTED);
  const [first] = parsed.prompt as (string | number)[];
  const prompt = Array.isArray(parsed.prompt) && typeof first === 'string' ? first : parsed.prompt;
  return {
    kind: 'text',
    messages: [],
    prompt: prompt as string | number[],
    ...common(parsed, defaults, parsed.max_tokens ?? 16), // OpenAI's default
  };
}

/**
 * Checks a body.
 *
 * @param unsupported keys that are refused unless they have one of the values that turn them off
 * @throws ApiError 400 naming the key
 */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown, unsupported: Record<string, unknown[]>): T {
  const {success, data, error} = schema.safeParse(body);
  if (!success) {
    const [{path, message}] = error.issues;
    const param = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
    const name = param.replace(/^\./, '');
    throw new ApiError(400, `${name || 'body'}: ${message}`, name || null, 'invalid_value');
  }
  for (const [key, off] of Object.entries(unsupported)) {
    const value = (data as Record<string, unknown>)[key];
    const isOff = value == null || off.some((allowed) => isDeepStrictEqual(allowed, value));
    if (isOff) continue;
    const expected = off.length === 0 ? 'none' : `none or ${JSON.stringify(off[0])}`;
    throw new ApiError(
      400,
      `${key}: expected ${expected}, got ${show(value)}. This server does not support it.`,
      key,
      'unsupported_parameter',
    );
  }
  return data;
}

/** Reads the common keys. The model's generation config overrides OpenAI's default temperature, 1. */
export function common(
  body: Partial<Sampling>,
  defaults: GenerationConfig,
  maxNewTokens?: number | null,
): Pick<CompletionRequest, 'model' | 'isStreamed' | 'includesUsage' | 'options'> {
  const temperature = body.temperature ?? defaults.temperature ?? 1;
  const topK = body.top_k ?? defaults.topK ?? 0;
  return {
    model: body.model ?? undefined,
    isStreamed: body.stream ?? false,
    includesUsage: body.stream_options?.include_usage ?? false,
    options: {
      doSample: temperature > 0,
      ...(temperature > 0 && {temperature}),
      topK: Math.max(topK, 0), // −1 means all tokens on other servers
      topP: body.top_p ?? defaults.topP ?? 1,
      ...(body.min_p != null && {minP: body.min_p}),
      ...(body.repetition_penalty != null && {repetitionPenalty: body.repetition_penalty}),
      ...(body.stop != null && {stopStrings: body.stop}),
      ...(body.seed != null && {seed: body.seed}),
      ...(maxNewTokens != null && {maxNewTokens}),
    },
  };
}
