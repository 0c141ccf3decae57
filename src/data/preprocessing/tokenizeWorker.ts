import {parentPort, workerData} from 'node:worker_threads';
import {Tokenizer} from '../../../models/tokenizer.ts';
import type {TokenizerFiles} from '../../../models/tokenizerFiles.ts';
import {type ErrorCode, TfjsLoraError} from '../../../quant/errors.ts';
import type {Conversation} from '../templates/conversation.ts';
import {type EncodeSettings, encodeConversation} from './encodeConversation.ts';
import {type PackedIds, packIds} from './packedIds.ts';

/** Data that a worker starts with. */
export interface WorkerStart {
  files: TokenizerFiles;
  settings: EncodeSettings;
}

/** A worker's answers: that it is ready, then one answer per list of conversations. */
export type WorkerAnswer = 'ready' | {ids: PackedIds} | {error: {code?: ErrorCode; message: string}};

const {files, settings} = workerData as WorkerStart;
const tokenizer = new Tokenizer(files);
const answer = (message: WorkerAnswer, transfer?: ArrayBuffer[]) =>
  parentPort?.postMessage(message, transfer);

parentPort?.on('message', (conversations: Conversation[]) => {
  try {
    const ids = packIds(conversations.map((each) => encodeConversation(each, tokenizer, settings)));
    answer({ids}, [ids.values.buffer as ArrayBuffer]);
  } catch (error) {
    const code = error instanceof TfjsLoraError ? error.code : undefined;
    answer({error: {code, message: (error as Error).message}});
  }
});
answer('ready');
