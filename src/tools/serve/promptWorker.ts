import {parentPort, workerData} from 'node:worker_threads';
import {type ChatMessage, Tokenizer} from '../../../models/tokenizer.ts';
import type {TokenizerFiles} from '../../../models/tokenizerFiles.ts';
import {type ErrorCode, TfjsLoraError} from '../../../quant/errors.ts';
import type {ResolvedTemplate} from '../../data/templates/templateRegistry.ts';
import {resolvedChatEncoder} from '../chat/templateChatEncoder.ts';

/** A prompt to encode. */
export type PromptTask =
  | {kind: 'text'; text: string}
  | {kind: 'chat'; messages: ChatMessage[]; template: ResolvedTemplate};

/** The prompt's ids, or the error. */
export type PromptAnswer = {ids: Uint32Array} | {error: {code?: ErrorCode; message: string}};

const tokenizer = new Tokenizer(workerData as TokenizerFiles);

parentPort?.on('message', (task: PromptTask) => {
  let answer: PromptAnswer;
  try {
    answer = {
      ids: Uint32Array.from(
        task.kind === 'text'
          ? tokenizer.encode(task.text)
          : resolvedChatEncoder(tokenizer, task.template)(task.messages),
      ),
    };
  } catch (error) {
    const code = error instanceof TfjsLoraError ? error.code : undefined;
    answer = {error: {code, message: (error as Error).message}};
  }
  parentPort?.postMessage(answer);
});
