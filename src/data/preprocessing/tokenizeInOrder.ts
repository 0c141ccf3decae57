import {availableParallelism} from 'node:os';
import {Worker} from 'node:worker_threads';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';
import type {Conversation} from '../templates/conversation.ts';
import {type EncodedConversation, type EncodeSettings, encodeConversation} from './encodeConversation.ts';
import {unpackIds} from './packedIds.ts';
import type {WorkerAnswer, WorkerStart} from './tokenizeWorker.ts';
import {workerModule} from './workerModule.ts';

/** Number of lists per worker that wait or are in work. */
const AHEAD = 2;

/** Conversations and their encodings. */
export interface EncodedList {
  conversations: Conversation[];
  encoded: EncodedConversation[];
}

/**
 * Tokenizes lists of conversations, in order, on worker threads.
 *
 * @param workers number of threads, at most one per processor; below 2, this thread does the work. When a worker cannot
 *   start or breaks, this thread continues, with a warning
 */
export async function* tokenizeInOrder(
  lists: AsyncIterable<Conversation[]> | Iterable<Conversation[]>,
  tokenizer: Tokenizer,
  settings: EncodeSettings,
  workers = 0,
): AsyncGenerator<EncodedList, void, undefined> {
  const here = (list: Conversation[]) => list.map((each) => encodeConversation(each, tokenizer, settings));
  const count = Math.min(workers, availableParallelism());
  const pool = count < 2 ? undefined : new TokenizerPool(count, {files: tokenizer.files, settings});
  const ahead: {conversations: Conversation[]; encoded: Promise<EncodedConversation[] | undefined>}[] = [];
  const finish = async ({conversations, encoded}: (typeof ahead)[number]) => ({
    conversations,
    encoded: (await encoded) ?? here(conversations),
  });
  try {
    for await (const conversations of lists) {
      if (!pool) {
        yield {conversations, encoded: here(conversations)};
        await new Promise((resume) => setImmediate(resume)); // let progress and signals through
        continue;
      }
      const encoded = pool.tokenize(conversations);
      encoded.catch(() => {}); // it is awaited in its turn
      ahead.push({conversations, encoded});
      if (ahead.length >= AHEAD * count) yield await finish(ahead.shift()!);
    }
    while (ahead.length > 0) yield await finish(ahead.shift()!);
  } finally {
    await pool?.close();
  }
}

interface Job {
  list: Conversation[];
  /** Called with undefined when no worker could do it. */
  resolve(encoded: EncodedConversation[] | undefined): void;
  reject(error: Error): void;
}

class TokenizerPool {
  private readonly waiting: Job[] = [];
  private readonly idle = new Set<Worker>();
  private readonly running = new Map<Worker, Job>();
  private readonly workers = new Set<Worker>();
  private isClosed = false;

  constructor(count: number, start: WorkerStart) {
    for (let i = 0; i < count; i++) this.start(start);
  }

  /** @returns undefined when no worker is left */
  tokenize(list: Conversation[]): Promise<EncodedConversation[] | undefined> {
    return new Promise((resolve, reject) => {
      this.waiting.push({list, resolve, reject});
      this.handOut();
    });
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await Promise.all([...this.workers].map((worker) => worker.terminate()));
  }

  private start(workerData: WorkerStart): void {
    let worker: Worker;
    try {
      worker = new Worker(workerModule('tokenizeWorker', import.meta.url), {workerData});
    } catch (error) {
      this.report(error as Error);
      return;
    }
    this.workers.add(worker);
    worker.on('message', (answer: WorkerAnswer) => this.take(worker, answer));
    worker.on('error', (error) => this.drop(worker, error));
    worker.on('exit', () => this.drop(worker, new Error('it ended')));
  }

  private take(worker: Worker, answer: WorkerAnswer): void {
    const job = this.running.get(worker);
    this.running.delete(worker);
    this.idle.add(worker);
    if (answer !== 'ready' && job) {
      if ('ids' in answer) job.resolve(unpackIds(answer.ids));
      else job.reject(asError(answer.error));
    }
    this.handOut();
  }

  private handOut(): void {
    for (const worker of this.idle) {
      const job = this.waiting.shift();
      if (!job) return;
      this.idle.delete(worker);
      this.running.set(worker, job);
      worker.postMessage(job.list);
    }
    if (this.workers.size === 0) for (const job of this.waiting.splice(0)) job.resolve(undefined);
  }

  private drop(worker: Worker, error: Error): void {
    if (!this.workers.delete(worker) || this.isClosed) return;
    this.report(error);
    this.idle.delete(worker);
    this.running.get(worker)?.resolve(undefined);
    this.running.delete(worker);
    this.handOut();
  }

  private report(error: Error): void {
    const rest = this.workers.size;
    warn(
      `tokenizing: a worker thread failed (${error.message}), so ` +
        (rest > 0 ? `${rest} continue without it` : 'the main thread does the work'),
    );
  }
}

function asError({code, message}: {code?: TfjsLoraError['code']; message: string}): Error {
  return code ? new TfjsLoraError(code, message) : new Error(message);
}
