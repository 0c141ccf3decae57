import {parentPort, workerData} from 'node:worker_threads';
import {Tokenizer} from '../../../models/tokenizer.ts';
import type {TokenizerFiles} from '../../../models/tokenizerFiles.ts';
import {type ErrorCode, TfjsLoraError} from '../../../quant/errors.ts';
import type {Conversation} from '../templates/conversation.ts';
import {type EncodeSettings, encodeConversation} from './encodeConversation.ts';
import {type PackedIds, packIds} from './packedIds.ts';

/** What a worker is given when it starts. */
export interface WorkerStart {
  files: TokenizerFiles;
  settings: EncodeSettings;
}

/** What it answers: that it is ready, then one answer for each list of conversations. */
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
