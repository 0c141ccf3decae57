import {nextTask} from '../../../models/nextTask.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {type AnyExample, type Example, isPair, type PairExample, rowsOf} from '../batches/collate.ts';
import {type DatasetArgs, type DatasetPlan, resolveDatasetArgs} from '../datasets/datasetArgs.ts';
import {
  type EncodedConversation,
  encodeConversation,
  encodeSettings,
  lengthFault,
} from '../preprocessing/encodeConversation.ts';
import {type EncodedPair, encodePair, joinAnswer, pairSettings} from '../preprocessing/encodePair.ts';
import {EXCHANGED_TOGETHER, exchangeAnswers} from '../preprocessing/exchangeAnswers.ts';
import {packExamples} from '../preprocessing/packSequences.ts';
import {type PromptExample, promptExample} from '../preprocessing/promptExample.ts';
import type {Conversation} from '../templates/conversation.ts';
import {templateStopIds} from '../templates/encodeTurns.ts';
import {MODEL_TEMPLATE, templateNames} from '../templates/templateRegistry.ts';
import {conversationOf, isRecord, type TrainingRecord} from './trainingRecord.ts';

/** Settings for turning records into token ids: `loadDataset`'s options of the same names. */
export interface RecordOptions
  extends Pick<
    DatasetArgs,
    | 'cutoffLength'
    | 'trainOnPrompt'
    | 'maskHistory'
    | 'defaultSystem'
    | 'dateString'
    | 'enableThinking'
    | 'preserveThinking'
    | 'onProgress'
    | 'signal'
  > {
  /**
   * Whether records share rows of up to `cutoffLength` − 1 tokens, plain texts apart from the others. Examples of token
   * ids are not packed. Default false.
   */
  packing?: boolean;
  /** Name of a template. Default: the tokenizer's own chat template, without which only `{text}` can be encoded. */
  template?: string;
}
const RECORD_OPTIONS = {
  template: true,
  cutoffLength: true,
  trainOnPrompt: true,
  maskHistory: true,
  packing: true,
  defaultSystem: true,
  dateString: true,
  enableThinking: true,
  preserveThinking: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<RecordOptions>;

/** Keys of a question that are read, or refused because they would change it. */
const QUESTION_KEYS = new Set([
  'prompt',
  'system',
  'tools',
  'image',
  'images',
  'video',
  'videos',
  'audio',
  'audios',
]);

/** Number of records that are encoded without a pause. */
const BETWEEN_PAUSES = 50;

/** Makes examples and prompts from records, with the templates, masks and cuts of `loadDataset`. */
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
    const {packing = false} = options; // plain text is packed by default in files, but not here
    this.plan = resolveDatasetArgs({...options, packing, dataset: call, tokenizer, template});
  }

  /** Tokens that end an answer in generation. */
  get stopIds(): number[] {
    return templateStopIds(this.plan.template, this.plan.tokenizer);
  }

  /**
   * Makes the examples of all records: in order, or packed. Anything that is not a record does not change; with packing
   * it comes last, after the rows of texts and those of answers.
   */
  async encodeAll<T>(items: Iterable<T | TrainingRecord> | AsyncIterable<T | TrainingRecord>) {
    const {packLength, tokenizer, onProgress, signal} = this.plan;
    const total = Array.isArray(items) ? items.length : undefined;
    const examples: (T | AnyExample)[] = [];
    const judged: {conversation: Conversation; at: number}[] = [];
    const toPack: Record<'pt' | 'sft', Example[]> = {pt: [], sft: []};
    let index = 0;
    const report = () => {
      signal?.throwIfAborted();
      onProgress?.({phase: 'tokenizing', what: this.call, done: index, ...(total && {total})});
    };
    for await (const item of items) {
      if (index % BETWEEN_PAUSES === 0) {
        await nextTask(); // let signals through
        report();
      }
      if (!isRecord(item)) examples.push(item);
      else {
        const {example, conversation, isText} = this.encodeAs(item, index);
        const isCompared = isPair(example) || conversation.desirable !== undefined;
        if (conversation.desirable !== undefined) judged.push({conversation, at: examples.length});
        if (packLength === undefined) examples.push(example);
        else if (isCompared) throw this.unpacked(index);
        else toPack[isText ? 'pt' : 'sft'].push(example);
      }
      index++;
    }
    report();
    for (let first = 0; first < judged.length; first += EXCHANGED_TOGETHER) {
      const group = judged.slice(first, first + EXCHANGED_TOGETHER);
      const rows = exchangeAnswers(group.map(({conversation}) => conversation));
      for (const [i, {conversation, at}] of group.entries()) {
        const mismatched = this.encodeAnswer(rows[2 * i + 1]);
        examples[at] = {
          answer: examples[at] as Example,
          mismatched,
          desirable: conversation.desirable as boolean,
        };
      }
    }
    if (packLength === undefined) return examples;
    const rows = (['pt', 'sft'] as const).flatMap((stage) =>
      packExamples(stage, toPack[stage], packLength, tokenizer),
    );
    if (toPack.pt.length > 0 && rows.length === 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${this.call} packing: expected texts for at least one row of ${packLength} tokens, got fewer. ` +
          'Lower cutoffLength, or leave packing out.',
      );
    }
    return [...rows, ...examples];
  }

  /**
   * Makes one example.
   *
   * @param index of the record from 0, for messages
   * @throws TfjsLoraError naming the record; `UNSUPPORTED` when there is no template for its turns
   */
  encode(record: TrainingRecord, index: number): Example | PairExample {
    const {example, conversation} = this.encodeAs(record, index);
    if (conversation.desirable === undefined) return example;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${conversation.source}: expected a list of records with a verdict, because their answers are exchanged, got a ` +
        'stream. Pass a list.',
    );
  }

  /**
   * Makes a prompt of a record: everything before its last answer, which is the label.
   *
   * @throws TfjsLoraError as {@link encode}; `INVALID_ARGUMENT` for plain text
   */
  encodePrompt(record: TrainingRecord, index: number): PromptExample {
    const {conversation, isText} = conversationOf(record, index, this.call, 'prediction');
    if (isText) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${conversation.source}: expected a question and its answer, got plain text, which asks nothing. ` +
          'Continue a text with generate.',
      );
    }
    this.assertTemplate(conversation);
    const {tokenizer, cutoffLength, packLength} = this.plan;
    const settings = {
      ...encodeSettings(this.plan, 'prompt'),
      cutoffLength: packLength === undefined ? cutoffLength : cutoffLength + 1, // prompts are never packed
    };
    return promptExample(encodeConversation(conversation, tokenizer, settings), tokenizer);
  }

  /**
   * Makes a prompt of a record that may have no answer: one with a `prompt`, whose other keys are not read, or of
   * another kind without its last answer.
   *
   * @throws TfjsLoraError as {@link encodePrompt}
   */
  encodeQuestion(record: object, index: number): PromptExample {
    if (!Object.hasOwn(record, 'prompt')) return this.encodePrompt(record as TrainingRecord, index);
    const read = Object.entries(record).filter(([key]) => QUESTION_KEYS.has(key));
    const question = {...Object.fromEntries(read), completion: ''} as unknown as TrainingRecord;
    return this.encodePrompt(question, index);
  }

  private encodeAs(
    record: TrainingRecord,
    index: number,
  ): {example: EncodedConversation | PairExample; conversation: Conversation; isText: boolean} {
    const {conversation, isText} = conversationOf(record, index, this.call);
    if (!isText) this.assertTemplate(conversation);
    const settings = encodeSettings(this.plan, isText ? 'pt' : 'sft');
    const {tokenizer} = this.plan;
    if (conversation.desirable !== undefined)
      return {example: this.encodeAnswer(conversation), conversation, isText};
    const example: EncodedConversation | EncodedPair = conversation.rejected
      ? encodePair(conversation, tokenizer, this.plan)
      : encodeConversation(conversation, tokenizer, settings);
    const rows = rowsOf<EncodedConversation>(example);
    if (!(isText && settings.packing)) for (const row of rows) assertLearned(row, conversation); // a packed text may be one token
    return {example, conversation, isText};
  }

  /** Encodes an answer that is judged, as the sides of pairs. */
  private encodeAnswer(conversation: Conversation): EncodedConversation {
    const encoded = encodeConversation(conversation, this.plan.tokenizer, pairSettings(this.plan));
    const row = joinAnswer(encoded, this.plan.cutoffLength);
    assertLearned(row, conversation);
    return row;
  }

  private unpacked(index: number): TfjsLoraError {
    return new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${this.call} record ${index}: expected a single answer with packing, got a pair. Leave packing out.`,
    );
  }

  private assertTemplate({source}: Conversation): void {
    if (this.hasTemplate) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${source}: expected a tokenizer with a chat template, got one without. Choose a template, ` +
        `model.dataset(records, {template: 'llama3'}), out of ${templateNames().join(', ')}; or pass records of {text}.`,
    );
  }
}

function assertLearned(row: EncodedConversation, {source}: Conversation): void {
  const fault = lengthFault(row);
  if (fault !== undefined)
    throw new TfjsLoraError('INVALID_ARGUMENT', `${source}: ${fault}. Raise cutoffLength.`);
}
