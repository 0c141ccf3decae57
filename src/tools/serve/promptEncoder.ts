import {Worker} from 'node:worker_threads';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';
import {workerModule} from '../../data/preprocessing/workerModule.ts';
import type {ChatEncoder} from '../chat/chatEncoder.ts';
import {ApiError} from './apiError.ts';
import type {CompletionRequest} from './completionRequest.ts';
import {longestToken} from './longestToken.ts';
import type {PromptAnswer, PromptTask} from './promptWorker.ts';
import {RequestQueue} from './requestQueue.ts';

/**
 * Largest prompt, in characters, for the main thread, which takes a few milliseconds. A worker tokenizes longer ones.
 */
const SHORT = 8192;

/**
 * Encodes prompts as token ids. Long prompts do not delay other requests: those that cannot fit the model are refused
 * by their number of bytes, and the rest are tokenized one at a time by another thread, which stops if the request
 * ends.
 */
export class PromptEncoder {
  private readonly longest: number | undefined;
  private readonly queue = new RequestQueue();
  private worker: Worker | undefined;

  /** @param positions number of positions in the model */
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly positions: number,
  ) {
    this.longest = longestToken(tokenizer.files);
  }

  /**
   * Encodes the prompt of a request.
   *
   * @param encodeChat returns the encoder for a chat
   * @throws ApiError 400 when the prompt cannot fit the model; TfjsLoraError when it cannot be encoded
   */
  async encode(
    request: CompletionRequest,
    encodeChat: () => ChatEncoder,
    signal: AbortSignal,
  ): Promise<number[]> {
    const {kind, messages, prompt} = request;
    if (typeof prompt !== 'string') return prompt;
    const texts = kind === 'text' ? [prompt] : messages.map(({content}) => String(content));
    this.assertCanFit(texts, kind);
    const isShort = texts.reduce((sum, {length}) => sum + length, 0) + texts.length < SHORT;
    const encoder = kind === 'chat' ? encodeChat() : undefined;
    const here = () => (encoder ? encoder(messages) : this.tokenizer.encode(prompt));
    const template = encoder?.template;
    if (isShort || (encoder && !template)) return here();
    const task: PromptTask = template ? {kind: 'chat', messages, template} : {kind: 'text', text: prompt};
    return this.queue.run(async () => (await this.encodeApart(task, signal)) ?? here(), signal);
  }

  async close(): Promise<void> {
    await this.queue.idle();
    await this.worker?.terminate();
    this.worker = undefined;
  }

  private assertCanFit(texts: string[], kind: 'chat' | 'text'): void {
    if (this.longest === undefined) return;
    // A chat template may trim each message.
    const bytes = texts.reduce(
      (sum, text) => sum + Buffer.byteLength(kind === 'chat' ? text.trim() : text),
      0,
    );
    const least = Math.ceil(bytes / this.longest);
    if (least >= this.positions)
      throw contextExceeded(kind === 'chat' ? 'messages' : 'prompt', this.positions, `at least ${least}`);
  }

  /** Encodes a prompt in another thread, or returns undefined if that fails. */
  private async encodeApart(task: PromptTask, signal: AbortSignal): Promise<number[] | undefined> {
    const answer = await this.ask(task, signal);
    if (answer === undefined) return undefined;
    if ('ids' in answer) return [...answer.ids];
    const {code, message} = answer.error;
    throw code ? new TfjsLoraError(code, message) : new Error(message);
  }

  private async ask(task: PromptTask, signal: AbortSignal): Promise<PromptAnswer | undefined> {
    try {
      this.worker ??= new Worker(workerModule('promptWorker', import.meta.url), {
        workerData: this.tokenizer.files,
      });
    } catch (error) {
      return reportFailure(error as Error);
    }
    const {worker} = this;
    worker.ref();
    return new Promise((resolve, reject) => {
      const settle = (end: () => void) => {
        for (const event of ['message', 'error', 'exit']) worker.removeAllListeners(event);
        signal.removeEventListener('abort', stop);
        worker.unref(); // an idle worker must not keep the process alive
        end();
      };
      const drop = (end: () => void) => {
        this.worker = undefined;
        settle(end);
      };
      const stop = () => {
        drop(() => reject(signal.reason));
        void worker.terminate();
      };
      worker.once('message', (answer: PromptAnswer) => settle(() => resolve(answer)));
      worker.once('error', (error) => drop(() => resolve(reportFailure(error))));
      worker.once('exit', () => drop(() => resolve(reportFailure(new Error('it ended')))));
      signal.addEventListener('abort', stop, {once: true});
      worker.postMessage(task);
    });
  }
}

function reportFailure({message}: Error): undefined {
  warn(`serve: the thread that tokenizes long prompts failed (${message}), so the main thread does the work`);
}

export function contextExceeded(param: string, positions: number, got: string): ApiError {
  return new ApiError(
    400,
    `${param}: expected fewer than ${positions} tokens, the length of this model's context, got ${got}. Shorten it.`,
    param,
    'context_length_exceeded',
  );
}
