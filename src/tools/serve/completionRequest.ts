import {isDeepStrictEqual} from 'node:util';
import {z} from 'zod';
import type {GenerateOptions} from '../../../models/generation/generate.ts';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import type {ChatMessage} from '../../../models/tokenizer.ts';
import {show} from '../../../quant/show.ts';
import {ApiError} from './apiError.ts';

/** What both kinds of completions take. A null is as good as nothing, as in OpenAI's API. */
const sampling = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({include_usage: z.boolean().nullish()}).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(4)]).nullish(),
  seed: z.int().nullish(),
  // Not OpenAI's, but what servers of open models take too.
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
};

const textPart = z.object({type: z.literal('text'), text: z.string()});
const message = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z.union([z.string(), z.array(textPart)]).nullish(),
});

const chatBody = z.looseObject({
  ...sampling,
  max_completion_tokens: z.int().min(1).nullish(),
  messages: z.array(message).min(1),
});
const textBody = z.looseObject({
  ...sampling,
  prompt: z.union([z.string(), z.array(z.int().min(0)).min(1), z.array(z.string()).length(1)]),
});

type Sampling = z.infer<z.ZodObject<typeof sampling>>;

/** Keys of OpenAI's that would change the answer and are not built here, and the values that switch them off. */
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

/** A completion that is asked for. */
export interface CompletionRequest {
  kind: 'chat' | 'text';
  /** The model's name; undefined: the one that answers by default. */
  model?: string;
  /** Of a chat. */
  messages: ChatMessage[];
  /** Of a text. */
  prompt: string | number[];
  isStreamed: boolean;
  /** Ends a stream with the counts of tokens. */
  includesUsage: boolean;
  /** The model's own generation config fills what is not set. */
  options: GenerateOptions;
}

/**
 * Reads the body of a request.
 *
 * @throws ApiError 400 naming the key that is wrong or not supported
 */
export function parseChatRequest(body: unknown, defaults: GenerationConfig): CompletionRequest {
  const parsed = parseBody(chatBody, body);
  const messages = parsed.messages.map(({role, content, ...others}) => ({
    ...others,
    role: role === 'developer' ? 'system' : role,
    content: Array.isArray(content) ? content.map(({text}) => text).join('') : (content ?? ''),
  }));
  const maxTokens = parsed.max_completion_tokens ?? parsed.max_tokens;
  return {kind: 'chat', messages, prompt: '', ...common(parsed, defaults, maxTokens)};
}

/** As {@link parseChatRequest}, for a text to continue. */
export function parseTextRequest(body: unknown, defaults: GenerationConfig): CompletionRequest {
  const parsed = parseBody(textBody, body);
  const [first] = parsed.prompt as (string | number)[];
  const prompt = Array.isArray(parsed.prompt) && typeof first === 'string' ? first : parsed.prompt;
  return {
    kind: 'text',
    messages: [],
    prompt: prompt as string | number[],
    ...common(parsed, defaults, parsed.max_tokens ?? 16), // OpenAI's default
  };
}

function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const {success, data, error} = schema.safeParse(body);
  if (!success) {
    const [{path, message}] = error.issues;
    const param = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
    const name = param.replace(/^\./, '');
    throw new ApiError(400, `${name || 'body'}: ${message}`, name || null, 'invalid_value');
  }
  for (const [key, off] of Object.entries(UNSUPPORTED)) {
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

/** OpenAI samples at temperature 1 by default; a model's generation config knows better. */
function common(
  body: Sampling,
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
      topK: Math.max(topK, 0), // −1 is what others write for all
      topP: body.top_p ?? defaults.topP ?? 1,
      ...(body.min_p != null && {minP: body.min_p}),
      ...(body.repetition_penalty != null && {repetitionPenalty: body.repetition_penalty}),
      ...(body.stop != null && {stopStrings: body.stop}),
      ...(body.seed != null && {seed: body.seed}),
      ...(maxNewTokens != null && {maxNewTokens}),
    },
  };
}
