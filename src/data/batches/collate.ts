import {type Batch, IGNORE_INDEX} from '../../../models/batchLoss.ts';
import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';

/** One training example, as token ids. */
export interface Example {
  inputIds: number[];
  /** Labels, as many as `inputIds`; −100 does not count. Default: every token that is not masked is a target. */
  labels?: number[];
  /** One number for each token: 1 for a real token, 0 for padding; 1, 2, 3 … for packed sequences. Default: all 1. */
  attentionMask?: number[];
  /** Positions, as many as `inputIds`. Default 0, 1, 2 … */
  positionIds?: number[];
  /** Data from which rewards are computed, such as the solution, for a prompt that the model answers in training. */
  record?: Record<string, unknown>;
}

/** A better and a worse answer to the same prompt. Each contains the prompt, which is not a target. */
export interface PairExample {
  chosen: Example;
  rejected: Example;
}

/**
 * An answer with a verdict, and the same prompt followed by another prompt's answer, which measures how far training
 * has moved.
 */
export interface VerdictExample {
  answer: Example;
  mismatched: Example;
  desirable: boolean;
}

/** One example of any kind. */
export type AnyExample = Example | PairExample | VerdictExample;

const holdsRows = (item: unknown, sides: readonly string[]): boolean =>
  sides.every((side) => {
    const row = (item as Record<string, object | undefined> | undefined)?.[side];
    return row != null && Object.hasOwn(row, 'inputIds');
  });

/** Whether an item of training data is a pair. */
export const isPair = (item: unknown): item is PairExample => holdsRows(item, ['chosen', 'rejected']);

/** Whether an item of training data is an answer with a verdict. */
export const isVerdict = (item: unknown): item is VerdictExample => holdsRows(item, ['answer', 'mismatched']);

/** The kind of training data: single answers, pairs of a better and a worse one, or answers with a verdict. */
export type ExampleKind = 'answer' | 'pair' | 'verdict';

export const kindOfExample = (example: AnyExample): ExampleKind =>
  isPair(example) ? 'pair' : isVerdict(example) ? 'verdict' : 'answer';

/** Returns the number of rows that an example becomes in a batch. */
export const rowsPerExample = (kind: ExampleKind): number => (kind === 'answer' ? 1 : 2);

/** Returns the rows that an example becomes in a batch. */
export const rowsOf = <T extends Example>(
  example: T | {chosen: T; rejected: T} | {answer: T; mismatched: T},
): T[] => {
  if ('chosen' in example) return [example.chosen, example.rejected];
  return 'mismatched' in example ? [example.answer, example.mismatched] : [example];
};

/** Returns the number of tokens in an example's longest row. */
export const longestRow = (example: AnyExample): number =>
  Math.max(...rowsOf(example).map(({inputIds}) => inputIds.length));

export interface CollateOptions {
  /** Id of padding, which is masked and does not count. Default 0. */
  padTokenId?: number;
  /** Multiple to which the row length is rounded up. Default 8. */
  padToMultipleOf?: number;
  /** Longest row that padding may reach. Default: no limit. */
  maxLength?: number;
}
const COLLATE_OPTIONS = {
  padTokenId: true,
  padToMultipleOf: true,
  maxLength: true,
} satisfies OptionNames<CollateOptions>;

/**
 * Pads examples on the right into one batch, labels with −100 and the mask with 0. Pairs become twice as many rows: all
 * chosen answers, then all rejected ones; so do answers with a verdict: all answers, then all mismatched ones.
 */
export function collate(given: AnyExample[], options: CollateOptions = {}): Batch {
  assertKnownOptions('collate', options, COLLATE_OPTIONS);
  const {padTokenId = 0, padToMultipleOf = 8, maxLength} = options;
  if (given.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'collate: expected at least one example, got none');
  }
  const kinds = [...new Set(given.map(kindOfExample))];
  if (kinds.length > 1) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `collate: expected examples of one kind, got those of ${kinds.join(' and ')}`,
    );
  }
  for (const [index, example] of given.entries()) assertIds('collate', example, index);
  const rows = given.map((example) => rowsOf(example));
  const examples = rows[0].flatMap((_, side) => rows.map((each) => each[side]));
  const longest = Math.max(...examples.map(({inputIds}) => inputIds.length));
  const length = Math.ceil(longest / padToMultipleOf) * padToMultipleOf;
  const width = maxLength === undefined ? length : Math.max(longest, Math.min(length, maxLength));
  const pad = (values: number[], by: number) => [
    ...values,
    ...new Array<number>(width - values.length).fill(by),
  ];
  const batch: Batch = {
    inputIds: examples.map(({inputIds}) => pad(inputIds, padTokenId)),
    labels: examples.map((example) => pad(labelsOf(example), IGNORE_INDEX)),
    attentionMask: examples.map(({inputIds, attentionMask}) =>
      pad(attentionMask ?? inputIds.map(() => 1), 0),
    ),
  };
  if (examples.some(({positionIds}) => positionIds)) {
    batch.positionIds = examples.map(({inputIds, positionIds}) =>
      pad(positionIds ?? inputIds.map((_, t) => t), 0),
    );
  }
  if (kinds[0] === 'verdict') batch.desirable = (given as VerdictExample[]).map(({desirable}) => desirable);
  return batch;
}

/** Refuses records, which have no token ids yet. */
export function assertIds(call: string, example: AnyExample, index: number): void {
  const isWrong = ({inputIds}: Example) => !Array.isArray(inputIds);
  if (typeof example === 'object' && example !== null && !rowsOf<Example>(example).some(isWrong)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} example ${index}: expected token ids {inputIds}, got ${show(example)}. Make examples of records with ` +
      '(await model.dataset(records)).examples.',
  );
}

/** Returns an example's labels: those it has, or every token that is not masked. */
export function labelsOf({inputIds, labels, attentionMask}: Example): number[] {
  return labels ?? inputIds.map((id, t) => (attentionMask?.[t] === 0 ? IGNORE_INDEX : id));
}

/** Limits that an example must meet. */
export interface ExampleLimits {
  maxLength?: number;
  vocabSize?: number;
  /** The kind that each example must have. Default: any. */
  exampleKind?: ExampleKind;
}

/** What an example of each kind is, for messages. */
const EXPECTED: Readonly<Record<ExampleKind, string>> = {
  answer: 'a single answer',
  pair: 'a pair {chosen, rejected}, which the compiled loss compares',
  verdict: 'an answer with a verdict {answer, mismatched, desirable}, which the compiled loss judges',
};
const ADVICE: Readonly<Record<ExampleKind, string>> = {
  answer:
    'Pass the examples of the loss (pairs, or records of {prompt, completion, label}), or compile another loss.',
  pair: 'Train on pairs with compile({loss: preferenceLoss()}).',
  verdict: 'Train on verdicts with compile({loss: ktoLoss()}).',
};

/**
 * Checks one example, all of its rows.
 *
 * @throws TfjsLoraError naming the example: `INVALID_ARGUMENT` when it is empty, too long or has nothing to learn,
 *   `SHAPE_MISMATCH`, `VOCABULARY_MISMATCH`
 */
export function assertExample(example: AnyExample, index: number, limits: ExampleLimits = {}): void {
  const kind = kindOfExample(example);
  const {exampleKind = kind} = limits;
  if (kind !== exampleKind) {
    const got =
      kind === 'answer' ? `the keys ${Object.keys(example ?? {}).join(', ') || '(none)'}` : `a ${kind}`;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index}: expected ${EXPECTED[exampleKind]}, got ${got}. ${ADVICE[kind]}`,
    );
  }
  const rows = kind === 'answer' ? {'': example} : example;
  for (const [side, row] of Object.entries(rows))
    if (side !== 'desirable') assertRow(row as Example, `example ${index} ${side}`.trim(), limits);
}

/** Says how to write an example that is a list alone: messages, or token ids. */
function adviceForList([first]: unknown[]): string {
  return typeof Object(first).role === 'string'
    ? 'Write a list of messages as {messages: […]}.'
    : 'Write a list of token ids as {inputIds: […]}.';
}

function assertRow(
  example: Example,
  place: string,
  {maxLength, vocabSize = Number.POSITIVE_INFINITY}: ExampleLimits,
): void {
  assertSpelling(example, place);
  const {inputIds, labels, attentionMask, positionIds} = example ?? {};
  if (!Array.isArray(inputIds) || inputIds.length === 0) {
    const got = Array.isArray(inputIds) ? 'an empty list' : `${inputIds && typeof inputIds}`;
    const advice = Array.isArray(example)
      ? ` ${adviceForList(example)}`
      : 'examples' in Object(example)
        ? ' Pass one of its examples: dataset.examples[0].'
        : '';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${place} inputIds: expected token ids, got ${got}.${advice}`,
    );
  }
  for (const [key, values] of Object.entries({labels, attentionMask, positionIds})) {
    if (values === undefined || values.length === inputIds.length) continue;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${place} ${key}: expected ${counted(inputIds.length, 'value')} (one per token), got ${values.length}`,
    );
  }
  if (maxLength !== undefined && inputIds.length > maxLength) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${place}: expected at most ${counted(maxLength, 'token')} (max_position_embeddings), got ${inputIds.length}. ` +
        'Shorten it (cutoffLength, or cutoff_len in a recipe).',
    );
  }
  const isId = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize;
  const wrongId = inputIds.find((id) => !isId(id));
  const wrongLabel = labels?.find((label) => label !== IGNORE_INDEX && !isId(label));
  if (wrongId !== undefined || wrongLabel !== undefined) {
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `${place} ${wrongId === undefined ? 'labels' : 'inputIds'}: expected ids from 0 to ${vocabSize - 1}, ` +
        `got ${wrongId ?? wrongLabel}. Use the tokenizer that belongs to the model.`,
    );
  }
  if (!labelsOf(example).some((label, t) => t > 0 && label !== IGNORE_INDEX)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${place} labels: expected at least one after the first token that is not -100, got ` +
        (labels ? `only ${IGNORE_INDEX}` : 'one token'),
    );
  }
}

/** Keys of an example, by their letters. */
const KEYS = new Map(
  (['inputIds', 'labels', 'attentionMask', 'positionIds'] satisfies (keyof Example)[]).map((key) => [
    key.toLowerCase(),
    key as string,
  ]),
);

/** Refuses keys in another spelling, such as `attention_mask`, which would not be read. */
function assertSpelling(example: Example, place: string): void {
  for (const key of Object.keys(example ?? {})) {
    const meant = KEYS.get(key.replaceAll('_', '').toLowerCase());
    if (meant === undefined || meant === key) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${place} ${key}: expected ${meant}, got another spelling of it. Rename the key.`,
    );
  }
}
