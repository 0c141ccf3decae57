import {createHash} from 'node:crypto';
import {join} from 'node:path';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../../quant/safetensors/writeSafetensors.ts';
import {warn} from '../../../quant/warn.ts';
import type {Conversation} from '../templates/conversation.ts';
import type {EncodedConversation, EncodeSettings} from './encodeConversation.ts';
import {packIds, unpackIds} from './packedIds.ts';

/** Version of the encoding; increased when the same text and settings yield other ids. */
const VERSION = 2;

const tokenizerHashes = new WeakMap<Tokenizer, string>();

/** Returns the file for conversations' token ids. Its name follows from their text, the settings and the tokenizer. */
export function tokenizedFile(
  folder: string,
  conversations: readonly Conversation[],
  tokenizer: Tokenizer,
  settings: EncodeSettings,
): string {
  let tokenizerHash = tokenizerHashes.get(tokenizer);
  if (tokenizerHash === undefined) {
    tokenizerHash = createHash('sha256').update(JSON.stringify(tokenizer.files)).digest('hex');
    tokenizerHashes.set(tokenizer, tokenizerHash);
  }
  const {template} = settings;
  const printsDate = template.kind === 'chat' || conversations.some(({tools}) => tools);
  const printed = {...settings, template: {...template, dateString: printsDate && template.dateString}};
  const hash = createHash('sha256').update(JSON.stringify([VERSION, tokenizerHash, printed]));
  for (const {prompt, response, system, tools, fault} of conversations)
    hash.update(JSON.stringify([prompt, response, system, tools, fault !== undefined]));
  return join(folder, `tokenized-${hash.digest('hex').slice(0, 40)}.safetensors`);
}

/** Reads token ids from such a file; returns undefined when there is none or, with a warning, when it is damaged. */
export function readTokenized(path: string, count: number): EncodedConversation[] | undefined {
  let file: SafetensorsFile | undefined;
  try {
    file = SafetensorsFile.open(path);
    const [lengths, values] = [integers(file.read('lengths')), integers(file.read('values'))];
    const total = lengths.reduce((sum, length) => sum + length, 0);
    if (lengths.length !== 2 * count || total !== values.length)
      throw new Error(
        `expected ${count} conversations and ${total} ids, got ${lengths.length / 2} and ${values.length}`,
      );
    return unpackIds({lengths, values});
  } catch (error) {
    if ((error as {code?: string}).code !== 'FILE_NOT_FOUND')
      warn(`tokenized data ${path}: ${(error as Error).message}. The data is tokenized again.`);
    return undefined;
  } finally {
    file?.close();
  }
}

export async function writeTokenized(path: string, encoded: readonly EncodedConversation[]): Promise<void> {
  const {lengths, values} = packIds(encoded);
  await writeSafetensors(path, [
    {name: 'lengths', dtype: 'I32', shape: [lengths.length], data: lengths},
    {name: 'values', dtype: 'I32', shape: [values.length], data: values},
  ]);
}

function integers(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}
