import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {emptyData} from '../batches/batches.ts';
import {type AnyExample, assertExample, type Example, isVerdict, rowsOf} from '../batches/collate.ts';
import {fileAdvice} from '../batches/fileAdvice.ts';
import type {PromptExample} from '../preprocessing/promptExample.ts';
import {learnedTokens} from './learnedTokens.ts';
import {promptOfExample} from './promptOfExample.ts';
import {RecordEncoder, type RecordOptions} from './recordEncoder.ts';
import {isRecord, type TrainingRecord} from './trainingRecord.ts';

/** Records to learn from, or examples of token ids, as a list or a stream. */
export type Records = Iterable<TrainingRecord | Example> | AsyncIterable<TrainingRecord | Example>;

/** Examples made from records; pairs or answers with a verdict, if the records are. Iterating gives the examples in the records' order. */
export class RecordDataset<T extends AnyExample = Example> {
  private constructor(
    readonly examples: T[],
    private readonly items: readonly (TrainingRecord | Example)[],
    private readonly encoder: RecordEncoder,
    private readonly tokenizer: Tokenizer,
  ) {}

  /**
   * Reads all records and makes their examples.
   *
   * @param call name of the function that was called, for messages
   * @throws TfjsLoraError what {@link RecordEncoder} throws; `INVALID_ARGUMENT` when there are no records
   */
  static async fromRecords(
    call: string,
    records: Records,
    tokenizer: Tokenizer | undefined,
    options?: RecordOptions,
  ): Promise<RecordDataset> {
    const encoder = new RecordEncoder(call, tokenizer, options);
    const isReadable =
      typeof records === 'object' &&
      records !== null &&
      (Symbol.iterator in records || Symbol.asyncIterator in records);
    if (!isReadable) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${call} records: expected a list or an iterator of records, got ${typeof records}.${fileAdvice(records)}`,
      );
    }
    const items: (TrainingRecord | Example)[] = [];
    for await (const item of records) items.push(item);
    const examples = await encoder.encodeAll<Example>(items);
    if (examples.length === 0) throw emptyData(call);
    for (const [index, example] of examples.entries()) assertExample(example, index);
    return new RecordDataset(examples as Example[], items, encoder, tokenizer as Tokenizer);
  }

  get length(): number {
    return this.examples.length;
  }

  /** Returns the prompts of the records, as `predictDataset` answers them. */
  prompts(): PromptExample[] {
    return this.items.map((item, index) =>
      isRecord(item)
        ? this.encoder.encodePrompt(item, index)
        : promptOfExample(item, `dataset example ${index}`, this.tokenizer),
    );
  }

  /** Tokens that end an answer to such a prompt. */
  get stopIds(): number[] {
    return this.encoder.stopIds;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.examples[Symbol.iterator]();
  }

  /**
   * Prints the text of an example, with its learned parts between `⟦` and `⟧`; of a pair, the chosen answer above the
   * rejected one. A label that is not the token itself is printed before it.
   *
   * @param index of the example from 0. Default 0
   * @param printFn receives the text. Default `console.log`
   * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no such example
   */
  preview(index = 0, printFn: (text: string) => void = (text) => globalThis.console.log(text)): void {
    const example = this.examples[index];
    if (!example) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `preview index: expected one from 0 to ${this.length - 1}, got ${show(index)}`,
      );
    }
    const textOf = ({ids, isLearned}: Part) => {
      const text = this.tokenizer.decode(ids);
      return isLearned ? `⟦${text}⟧` : text;
    };
    const written = (row: Example) => partsOf(row).map(textOf).join('');
    const rows = isVerdict(example) ? [example.answer] : rowsOf<Example>(example);
    printFn(rows.map(written).join('\n'));
  }
}

/** Tokens in a row that are learned, or that are not. */
interface Part {
  ids: number[];
  isLearned: boolean;
}

function partsOf(example: Example): Part[] {
  const parts: Part[] = [];
  for (const {id, isLearned} of learnedTokens(example)) {
    const last = parts.at(-1);
    if (last?.isLearned === isLearned) last.ids.push(id);
    else parts.push({ids: [id], isLearned});
  }
  return parts;
}
