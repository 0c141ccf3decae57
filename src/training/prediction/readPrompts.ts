import type {Batch} from '../../../models/batchLoss.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertReadable, isBatch, itemsOf, type TrainingData, toRows} from '../../data/batches/batches.ts';
import type {Example} from '../../data/batches/collate.ts';
import type {PromptExample} from '../../data/preprocessing/promptExample.ts';
import {promptOfExample} from '../../data/records/promptOfExample.ts';
import {RecordDataset} from '../../data/records/recordDataset.ts';
import {RecordEncoder} from '../../data/records/recordEncoder.ts';
import {isRecord, type TrainingRecord} from '../../data/records/trainingRecord.ts';

/**
 * Data to make predictions for: records of text, prompts, or examples of token ids whose last learned part is the
 * answer.
 */
export type PredictionData = TrainingData<TrainingRecord | PromptExample | Example>;

/** Prompts that are answered together. */
export interface PromptGroup {
  prompts: readonly PromptExample[];
  /** Tokens that end an answer, as the template of the records says; undefined when there were no records. */
  stopIds?: number[];
}

const CALL = 'predictDataset';

/**
 * Yields the prompts of a list in one group, and those of a stream in groups as they arrive. Empty data is an empty
 * group.
 *
 * @param size number of prompts in a stream's group
 * @throws TfjsLoraError naming the record or example that is no prompt
 */
export async function* readPrompts(
  data: PredictionData,
  size: number,
  tokenizer: Tokenizer,
): AsyncGenerator<PromptGroup, void, undefined> {
  if (data instanceof RecordDataset) {
    yield {prompts: data.prompts(), stopIds: data.stopIds};
    return;
  }
  assertReadable(data, CALL);
  let encoder: RecordEncoder | undefined;
  const read = (item: TrainingRecord | PromptExample | Example | Batch, index: number): PromptExample => {
    if (Object.hasOwn(Object(item), 'promptIds')) return item as PromptExample;
    if (isRecord(item)) {
      encoder ??= new RecordEncoder(CALL, tokenizer);
      return encoder.encodePrompt(item, index);
    }
    if (!isBatch(item as Batch))
      return promptOfExample(item as Example, `${CALL} example ${index}`, tokenizer);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${CALL} item ${index}: expected a record, a prompt or an example, got a batch. Pass its rows one by one.`,
    );
  };
  const most = Array.isArray(data) ? Number.POSITIVE_INFINITY : size;
  let [prompts, index]: [PromptExample[], number] = [[], 0];
  for await (const item of itemsOf(data, 0)) {
    prompts.push(read(await toRows(item as Example), index++));
    if (prompts.length < most) continue;
    yield {prompts, stopIds: encoder?.stopIds};
    prompts = [];
  }
  if (prompts.length > 0 || index === 0) yield {prompts, stopIds: encoder?.stopIds};
}
