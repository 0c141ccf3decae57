import type {CausalLM} from '../../../models/causalLM.ts';
import {streamTokens} from '../../../models/generation/generate.ts';
import {GENERATE_OPTIONS, type GenerateOptions} from '../../../models/generation/generateOptions.ts';
import type {ChatMessage} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {type ChatEncoder, modelChatEncoder} from './chatEncoder.ts';

export interface ChatSessionOptions extends Omit<GenerateOptions, 'signal' | 'onProgress'> {
  /** System message at the start of the conversation. Default none. */
  system?: string;
  /** Converts messages to a prompt. Default: the model's own chat template. */
  encodeChat?: ChatEncoder;
}
const {signal, onProgress, ...SETTINGS} = GENERATE_OPTIONS;
const CHAT_SESSION_OPTIONS = {
  ...SETTINGS,
  system: true,
  encodeChat: true,
} satisfies OptionNames<ChatSessionOptions>;

/** Number of tokens that are reserved for an answer when older turns must be left out. */
const ANSWER_ROOM = 64;

/**
 * A conversation with a model: its history, its system message, and the answers as they are generated.
 *
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {ChatSession} from 'tfjs-lora/chat';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * const session = new ChatSession(model, {system: 'Be brief.', maxNewTokens: 200});
 * for await (const piece of session.send('Who pays?')) console.log(piece);
 * ```
 */
export class ChatSession {
  /** Messages so far, without the system message. */
  readonly history: ChatMessage[] = [];
  system?: string;
  /** Number of turns that were left out of the last prompt to make it fit. */
  forgottenTurns = 0;
  private readonly encodeChat: ChatEncoder;
  private readonly generation: GenerateOptions;

  /** @throws TfjsLoraError `UNSUPPORTED` when the model has no tokenizer or chat template */
  constructor(
    private readonly model: CausalLM,
    options: ChatSessionOptions = {},
  ) {
    assertKnownOptions('ChatSession', options, CHAT_SESSION_OPTIONS);
    const {system, encodeChat, ...generation} = options;
    this.system = system;
    this.encodeChat = encodeChat ?? modelChatEncoder(model);
    this.generation = generation;
  }

  /**
   * Sends a message and yields the answer in pieces. Leaving the loop stops the answer, and the part so far is kept in
   * the history. After an error, the history does not change.
   *
   * @param options.signal stops the answer, with the signal's reason as the error
   * @throws TfjsLoraError as `stream` does; `INVALID_ARGUMENT` when the message alone does not fit the model
   */
  async *send(
    content: string,
    options: {signal?: AbortSignal} = {},
  ): AsyncGenerator<string, void, undefined> {
    assertKnownOptions('send', options, {signal: true});
    const generation = {...this.generation, ...options};
    const before = this.history.length;
    this.history.push({role: 'user', content});
    let answer = '';
    let isFailed = false;
    try {
      for await (const {piece} of streamTokens(this.model, this.fittingPrompt(), generation)) {
        answer += piece;
        if (piece !== '') yield piece;
        // Synchronous backends never let the event loop run, and an interrupt would wait for the last token.
        await new Promise((resume) => setTimeout(resume));
      }
    } catch (error) {
      isFailed = true;
      throw error;
    } finally {
      if (isFailed) this.history.length = before;
      else this.history.push({role: 'assistant', content: answer});
    }
  }

  /** Clears the history, but keeps the system message. */
  reset(): void {
    this.history.length = 0;
    this.forgottenTurns = 0;
  }

  /** Returns the prompt, without the oldest turns if they do not all fit. */
  private fittingPrompt(): number[] {
    const {maxPositionEmbeddings} = this.model.config;
    const system = this.system === undefined ? [] : [{role: 'system', content: this.system}];
    const limit = maxPositionEmbeddings - Math.min(ANSWER_ROOM, this.generation.maxNewTokens ?? ANSWER_ROOM);
    for (let first = 0; first < this.history.length; first += 2) {
      const prompt = this.encodeChat([...system, ...this.history.slice(first)]);
      this.forgottenTurns = first / 2;
      const isLast = first === this.history.length - 1;
      if (prompt.length <= limit || (isLast && prompt.length < maxPositionEmbeddings)) return prompt;
    }
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `chat message: expected one that leaves room for an answer within ${maxPositionEmbeddings} tokens ` +
        "(the model's max_position_embeddings), got a longer one. Shorten it, or the system message.",
    );
  }
}
