import {letSignalsThrough} from '../../../models/letSignalsThrough.ts';
import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';
import {
  type AnyExample,
  type Example,
  type PairExample,
  rowsOf,
  type VerdictExample,
} from '../batches/collate.ts';
import {type DatasetPlan, KIND_OF_STAGE} from '../datasets/datasetArgs.ts';
import type {Conversation} from '../templates/conversation.ts';
import {
  type EncodedConversation,
  type EncodeSettings,
  encodeSettings,
  faultOf,
  lengthFault,
} from './encodeConversation.ts';
import {joinAnswer, joinSides, pairSettings, sidesOf} from './encodePair.ts';
import {EXCHANGED_TOGETHER, exchangeAnswers} from './exchangeAnswers.ts';
import {PACKED_TOGETHER, packExamples} from './packSequences.ts';
import {readTokenized, tokenizedFile, writeTokenized} from './tokenizedCache.ts';
import {type EncodedList, tokenizeInOrder} from './tokenizeInOrder.ts';

/** Number of conversations sent to a worker together. */
const LIST_LENGTH = 50;

/** Encodes all conversations as token ids, in order, or reads them from the cache. */
export async function encodeAll(
  conversations: Conversation[],
  plan: DatasetPlan,
  settings: EncodeSettings,
): Promise<EncodedConversation[]> {
  const {tokenizer, cacheDir, overwriteCache, workers, onProgress, signal} = plan;
  const path = cacheDir && tokenizedFile(cacheDir, conversations, tokenizer, settings);
  const cached = path && !overwriteCache ? readTokenized(path, conversations.length) : undefined;
  if (cached) return cached;
  const encoded: EncodedConversation[] = [];
  for await (const list of tokenizeInOrder(listsOf(conversations), tokenizer, settings, workers)) {
    await letSignalsThrough(signal);
    encoded.push(...list.encoded);
    const [what, total] = [plan.dataset.join(', '), conversations.length];
    onProgress?.({phase: 'tokenizing', what, done: encoded.length, total});
  }
  if (path) await writeTokenized(path, encoded);
  return encoded;
}

/** Makes training examples from conversations in memory. */
export async function makeExamples(conversations: Conversation[], plan: DatasetPlan): Promise<AnyExample[]> {
  const leftOut = new LeftOut(plan);
  const examples: AnyExample[] = [];
  if (KIND_OF_STAGE[plan.stage] !== 'answer') {
    const sides: Conversation[] = [];
    for await (const side of sidesIn(conversations, plan)) sides.push(side);
    const encoded = await encodeAll(sides, plan, pairSettings(plan));
    examples.push(...comparedOf({conversations: sides, encoded}, plan, leftOut));
  } else {
    const settings = encodeSettings(plan, plan.stage as 'sft' | 'pt');
    const encoded = await encodeAll(conversations, plan, settings);
    examples.push(...examplesOf({conversations, encoded}, plan, settings, leftOut));
  }
  leftOut.report(conversations.length, examples.length);
  return examples;
}

/** Makes training examples from conversations as they arrive. */
export async function* streamExamples(
  conversations: AsyncIterable<Conversation>,
  plan: DatasetPlan,
): AsyncGenerator<AnyExample, void, undefined> {
  const {tokenizer, workers, stage} = plan;
  const isPaired = KIND_OF_STAGE[stage] !== 'answer';
  const settings = isPaired ? pairSettings(plan) : encodeSettings(plan, stage as 'sft' | 'pt');
  const leftOut = new LeftOut(plan);
  let [records, examples] = [0, 0];
  let waiting: EncodedList = {conversations: [], encoded: []};
  const take = function* () {
    const made = isPaired ? comparedOf(waiting, plan, leftOut) : examplesOf(waiting, plan, settings, leftOut);
    for (const example of made) {
      examples++;
      yield example;
    }
    waiting = {conversations: [], encoded: []};
  };
  const most = plan.packLength === undefined ? LIST_LENGTH : PACKED_TOGETHER;
  const rows = isPaired ? sidesIn(conversations, plan) : conversations;
  for await (const list of tokenizeInOrder(listsOf(rows), tokenizer, settings, workers)) {
    records += list.conversations.length / (isPaired ? 2 : 1);
    waiting.conversations.push(...list.conversations);
    waiting.encoded.push(...list.encoded);
    if (waiting.conversations.length >= most) yield* take();
  }
  yield* take();
  leftOut.report(records, examples);
}

/** Yields the two conversations that each record becomes: both sides of a pair, or a judged and a mismatched answer. */
async function* sidesIn(
  conversations: Iterable<Conversation> | AsyncIterable<Conversation>,
  {stage}: DatasetPlan,
): AsyncGenerator<Conversation, void, undefined> {
  const isPair = KIND_OF_STAGE[stage] === 'pair';
  for await (const list of listsOf(conversations, isPair ? LIST_LENGTH : EXCHANGED_TOGETHER))
    yield* isPair ? list.flatMap(sidesOf) : exchangeAnswers(list);
}

/** Makes examples of two rows, of the two conversations that each record became. */
function comparedOf(
  {conversations, encoded}: EncodedList,
  {stage, cutoffLength}: DatasetPlan,
  leftOut: LeftOut,
): (PairExample | VerdictExample)[] {
  const examples: (PairExample | VerdictExample)[] = [];
  for (let i = 0; i < conversations.length; i += 2) {
    const [first, second] = [encoded[i], encoded[i + 1]];
    const example =
      KIND_OF_STAGE[stage] === 'pair'
        ? joinSides(first, second, cutoffLength)
        : {
            answer: joinAnswer(first, cutoffLength),
            mismatched: joinAnswer(second, cutoffLength),
            desirable: conversations[i].desirable === true,
          };
    const fault =
      conversations[i].fault ?? rowsOf<EncodedConversation>(example).map(lengthFault).find(Boolean);
    if (fault === undefined) examples.push(example);
    else leftOut.add(conversations[i], fault);
  }
  return examples;
}

function examplesOf(
  {conversations, encoded}: EncodedList,
  plan: DatasetPlan,
  settings: EncodeSettings,
  leftOut: LeftOut,
): Example[] {
  const {packLength, tokenizer} = plan;
  const stage = plan.stage as 'sft' | 'pt'; // pairs are made elsewhere
  const examples: Example[] = [];
  const together = packLength === undefined ? Math.max(1, conversations.length) : PACKED_TOGETHER;
  for (let at = 0; at < conversations.length; at += together) {
    const usable: Example[] = [];
    for (let i = at; i < Math.min(at + together, conversations.length); i++) {
      const fault = faultOf(conversations[i], settings) ?? lengthFault(encoded[i]);
      if (
        fault === undefined ||
        (stage === 'pt' && packLength !== undefined && encoded[i].inputIds.length > 0)
      )
        usable.push(stage === 'pt' ? {inputIds: encoded[i].inputIds} : encoded[i]);
      else leftOut.add(conversations[i], fault);
    }
    examples.push(
      ...(packLength === undefined ? usable : packExamples(stage, usable, packLength, tokenizer)),
    );
  }
  return examples;
}

/** Advice for data in which no record has an answer, as in a file of plain text. */
const NO_ANSWERS =
  ' Name the column of the answers under columns response, or learn plain text with stage pt.';

/** Counts records that yield no example. */
class LeftOut {
  private count = 0;
  private first = '';
  private hasAnswers = false;

  constructor(private readonly plan: DatasetPlan) {}

  add({source, response}: Conversation, fault: string): void {
    this.hasAnswers ||= response !== undefined;
    if (this.count++ === 0) this.first = `${source}: ${fault}`;
  }

  /**
   * Warns of skipped records.
   *
   * @throws TfjsLoraError `CORRUPT_FILE` when nothing is left
   */
  report(records: number, examples: number): void {
    const what = `dataset ${this.plan.dataset.join(', ')}`;
    const first = this.first && ` The first: ${this.first}.`;
    if (examples === 0) {
      const reason =
        this.plan.stage === 'pt' && !first
          ? ' The text is shorter than one row of cutoffLength tokens. Lower it (cutoff_len in a recipe), or turn packing off.'
          : first + (this.count > 0 && this.plan.stage === 'sft' && !this.hasAnswers ? NO_ANSWERS : '');
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${what}: expected examples to learn from, got none out of ${counted(records, 'record')}.${reason}`,
      );
    }
    if (this.count > 0) warn(`${what}: skipped ${this.count} of ${counted(records, 'record')}.${first}`);
  }
}

async function* listsOf<T>(
  items: Iterable<T> | AsyncIterable<T>,
  length = LIST_LENGTH,
): AsyncGenerator<T[], void, undefined> {
  let list: T[] = [];
  for await (const item of items) {
    list.push(item);
    if (list.length < length) continue;
    yield list;
    list = [];
  }
  if (list.length > 0) yield list;
}
