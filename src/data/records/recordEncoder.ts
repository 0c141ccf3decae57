import * as tf from '@tensorflow/tfjs';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import type {Example} from '../batches/collate.ts';
import {type DatasetArgs, type DatasetPlan, resolveDatasetArgs} from '../datasets/datasetArgs.ts';
import {encodeConversation, encodeSettings, lengthFault} from '../preprocessing/encodeConversation.ts';
import {MODEL_TEMPLATE, templateNames} from '../templates/templateRegistry.ts';
import {conversationOf, isRecord, type TrainingRecord} from './trainingRecord.ts';

/** How records become token ids: `loadDataset`'s options of the same names. */
export interface RecordOptions
  extends Pick<
    DatasetArgs,
    'cutoffLength' | 'trainOnPrompt' | 'maskHistory' | 'defaultSystem' | 'dateString'
  > {
  /** Name of a template. Default: the tokenizer's own chat template, without which only `{text}` can be encoded. */
  template?: string;
}
const RECORD_OPTIONS = {
  template: true,
  cutoffLength: true,
  trainOnPrompt: true,
  maskHistory: true,
  defaultSystem: true,
  dateString: true,
} satisfies OptionNames<RecordOptions>;

/** Number of records that are encoded without a pause. */
const BETWEEN_PAUSES = 50;

/** Makes examples from records, with the templates, masks and cuts of `loadDataset`. */
export class RecordEncoder {
  private readonly plan: DatasetPlan;
  /** Whether questions and answers can be encoded. */
  private readonly hasTemplate: boolean;

  /**
   * Checks the options.
   *
   * @param call name of the function that was called, for messages
   * @throws TfjsLoraError `UNSUPPORTED` without a tokenizer; `INVALID_ARGUMENT` naming the option
   */
  constructor(
    private readonly call: string,
    tokenizer: Tokenizer | undefined,
    options: RecordOptions = {},
  ) {
    assertKnownOptions(call, options, RECORD_OPTIONS);
    if (!tokenizer) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${call} records: expected a model with a tokenizer, got one without. ` +
          'Set model.tokenizer, or pass token ids ({inputIds, labels}).',
      );
    }
    this.hasTemplate = options.template !== undefined || tokenizer.hasChatTemplate;
    const template = options.template ?? (this.hasTemplate ? MODEL_TEMPLATE : 'empty');
    this.plan = resolveDatasetArgs({...options, dataset: call, tokenizer, template});
  }

  /** Makes the examples of all records, in order. What is no record stays as it is. */
  async encodeAll<T>(items: Iterable<T | TrainingRecord> | AsyncIterable<T | TrainingRecord>) {
    const examples: (T | Example)[] = [];
    for await (const item of items) {
      examples.push(isRecord(item) ? this.encode(item, examples.length) : item);
      if (examples.length % BETWEEN_PAUSES === 0) await tf.nextFrame(); // let signals through
    }
    return examples;
  }

  /**
   * Makes one example.
   *
   * @param index of the record from 0, for messages
   * @throws TfjsLoraError naming the record; `UNSUPPORTED` when there is no template for its turns
   */
  encode(record: TrainingRecord, index: number): Example {
    const {conversation, isText} = conversationOf(record, index, this.call);
    if (!isText && !this.hasTemplate) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${conversation.source}: expected a tokenizer with a chat template, got one without. Choose a template, ` +
          `model.dataset(records, {template: 'llama3'}), out of ${templateNames().join(', ')}; or pass records of {text}.`,
      );
    }
    const settings = encodeSettings(this.plan, isText ? 'pt' : 'sft');
    const encoded = encodeConversation(conversation, this.plan.tokenizer, settings);
    const fault = lengthFault(encoded);
    if (fault === undefined) return encoded;
    throw new TfjsLoraError('INVALID_ARGUMENT', `${conversation.source}: ${fault}. Raise cutoffLength.`);
  }
}
