import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';

const MEDIA = 'The models read text only: leave out the key, or the record.';
const PREFERENCE =
  'Only records of {prompt, chosen, rejected} are preferences: add the missing keys, or leave it out.';
const VERDICT =
  'Only records of {prompt, completion, label} have a verdict: rename the keys, or leave it out.';
const MASK =
  'Choose what is learned by the options trainOnPrompt and maskHistory, or pass token ids and labels ({inputIds, labels}).';
const THOUGHTS = 'Write thoughts into the content, or leave out the key.';

/** Keys that other libraries read from a record and that would change what is learned, each with what to do. */
const RECORD_KEYS: Readonly<Record<string, string>> = {
  image: MEDIA,
  images: MEDIA,
  video: MEDIA,
  videos: MEDIA,
  audio: MEDIA,
  audios: MEDIA,
  chosen: PREFERENCE,
  rejected: PREFERENCE,
  kto_tag: VERDICT,
  completion_mask: MASK,
  assistant_masks: MASK,
  chat_template_kwargs: 'Leave out the key, and choose or register a template that writes the turns so.',
};

/** The same for a turn of a conversation. */
const TURN_KEYS: Readonly<Record<string, string>> = {
  image: MEDIA,
  images: MEDIA,
  audio: MEDIA,
  function_call: 'Write the call as tool_calls: [{function: {name, arguments}}].',
  reasoning_content: THOUGHTS,
  thinking: THOUGHTS,
};

/** The keys of a kind of records. */
interface KeysOfKind {
  /** Keys that a record of this kind has, and further keys that it may have. */
  needs: string[];
  reads: string[];
}

/**
 * Checks that a record has no key that would change what is learned, but that its kind does not read.
 *
 * @param kinds all kinds, whose optional keys must not be in a record of another kind
 * @throws TfjsLoraError `UNSUPPORTED` naming the record and the key
 */
export function assertReadable(
  record: object,
  place: string,
  {needs, reads}: KeysOfKind,
  kinds: readonly KeysOfKind[],
): void {
  for (const [key, value] of Object.entries(record)) {
    if (isEmpty(value) || needs.includes(key) || reads.includes(key)) continue;
    if (Object.hasOwn(RECORD_KEYS, key)) throw unread(place, key, value, RECORD_KEYS[key]);
    if (key === 'label' && typeof value === 'boolean') throw unread(place, key, value, VERDICT);
    if (key === 'label' && (value === 0 || value === 1) && needs.includes('completion'))
      throw unread(place, key, value, 'Write a verdict as true or false, and rename any other label.');
    const others = kinds
      .filter((kind) => kind.reads.includes(key))
      .map((kind) => `{${kind.needs.join(', ')}}`);
    if (others.length > 0)
      throw unread(place, key, value, `Only records of ${others.join(', ')} may have it: leave out the key.`);
  }
}

/**
 * Checks the turns of a conversation, as {@link assertReadable} does its record.
 *
 * @returns the turns, with the arguments of their calls parsed where they are JSON text, as in OpenAI's API
 * @throws TfjsLoraError `UNSUPPORTED` naming the turn and the key
 */
export function readableTurns(turns: readonly unknown[], place: string): unknown[] {
  return turns.map((turn, index) => {
    if (typeof turn !== 'object' || turn === null) return turn;
    for (const [key, value] of Object.entries(turn)) {
      if (isEmpty(value)) continue;
      if (Object.hasOwn(TURN_KEYS, key)) throw unread(`${place} turn ${index}`, key, value, TURN_KEYS[key]);
      if (key === 'weight' && Number(value) !== 1) throw unread(`${place} turn ${index}`, key, value, MASK);
    }
    const {tool_calls: calls, content} = turn as Record<string, unknown>;
    if (!Array.isArray(calls) || calls.length === 0) return turn;
    if (typeof content === 'string' && content.trim() !== '') {
      const advice = 'A template writes either text or calls: leave out one of them.';
      throw unread(`${place} turn ${index}`, 'content beside tool_calls', content, advice);
    }
    return {...turn, tool_calls: calls.map(withParsedArguments)};
  });
}

function withParsedArguments(call: unknown): unknown {
  const {function: called} = Object(call) as {function?: {arguments?: unknown}};
  if (typeof called?.arguments !== 'string') return call;
  try {
    return {...Object(call), function: {...called, arguments: JSON.parse(called.arguments)}};
  } catch {
    return call; // it is written as the text that it is
  }
}

const isEmpty = (value: unknown): boolean =>
  value == null || value === '' || (typeof value === 'object' && Object.keys(value).length === 0);

function unread(place: string, key: string, value: unknown, advice: string): TfjsLoraError {
  return new TfjsLoraError('UNSUPPORTED', `${place} ${key}: expected none, got ${show(value)}. ${advice}`);
}
