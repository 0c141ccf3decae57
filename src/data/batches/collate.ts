import {type Batch, IGNORE_INDEX} from '../../../models/batchLoss.ts';
import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';

/** One training example, as token ids. */
export interface Example {
  inputIds: number[];
  /** Labels, as many as `inputIds`; −100 does not count. Default: every token that is not masked is a target. */
  labels?: number[];
  /** As many as `inputIds`: 1 for a real token, 0 for padding; 1, 2, 3 … for packed sequences. Default: all 1. */
  attentionMask?: number[];
  /** Positions, as many as `inputIds`. Default 0, 1, 2 … */
  positionIds?: number[];
  /** Of a prompt that the model answers in training: what rewards are computed with, such as the solution. */
  record?: Record<string, unknown>;
}

/** A better and a worse answer to one prompt, each with the prompt before it, which is not a target. */
export interface PairExample {
  chosen: Example;
  rejected: Example;
}

/** Whether an item of training data is a pair. */
export const isPair = (item: unknown): item is PairExample =>
  ['chosen', 'rejected'].every((side) => {
    const row = (item as Record<string, object | undefined> | undefined)?.[side];
    return row != null && Object.hasOwn(row, 'inputIds');
  });

/** What training data are made of: single answers, or pairs of a better and a worse one. */
export type ExampleKind = 'answer' | 'pair';

/** Returns the number of rows that an example becomes in a batch. */
export const rowsPerExample = (kind: ExampleKind): number => (kind === 'answer' ? 1 : 2);

/** Returns the rows that an example becomes in a batch. */
export const rowsOf = <T extends Example>(example: T | {chosen: T; rejected: T}): T[] =>
  'chosen' in example ? [example.chosen, example.rejected] : [example];

/** Returns the number of tokens in an example's longest row. */
export const longestRow = (example: Example | PairExample): number =>
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
 * chosen answers, then all rejected ones.
 */
export function collate(given: (Example | PairExample)[], options: CollateOptions = {}): Batch {
  assertKnownOptions('collate', options, COLLATE_OPTIONS);
  const {padTokenId = 0, padToMultipleOf = 8, maxLength} = options;
  if (given.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'collate: expected at least one example, got none');
  }
  const pairs = given.filter(isPair);
  if (pairs.length > 0 && pairs.length < given.length) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `collate: expected either pairs or single examples, got ${pairs.length} of ${given.length} pairs`,
    );
  }
  const sides = ['chosen', 'rejected'] as const;
  const examples =
    pairs.length > 0 ? sides.flatMap((side) => pairs.map((pair) => pair[side])) : (given as Example[]);
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
  return batch;
}

/** Returns an example's labels: those it has, or every token that is not masked. */
export function labelsOf({inputIds, labels, attentionMask}: Example): number[] {
  return labels ?? inputIds.map((id, t) => (attentionMask?.[t] === 0 ? IGNORE_INDEX : id));
}

/** Limits that an example must meet. */
export interface ExampleLimits {
  maxLength?: number;
  vocabSize?: number;
  /** What each example must be. Default: any. */
  exampleKind?: ExampleKind;
}

/**
 * Checks one example, both rows of a pair.
 *
 * @throws TfjsLoraError naming the example: `INVALID_ARGUMENT` when it is empty, too long or has nothing to learn,
 *   `SHAPE_MISMATCH`, `VOCABULARY_MISMATCH`
 */
export function assertExample(
  example: Example | PairExample,
  index: number,
  limits: ExampleLimits = {},
): void {
  const kind = isPair(example) ? 'pair' : 'answer';
  if (kind !== (limits.exampleKind ?? kind)) {
    const [expected, advice] =
      limits.exampleKind === 'pair'
        ? [
            'a pair {chosen, rejected}, which the compiled loss compares',
            'Pass pairs, or compile another loss.',
          ]
        : ['a single answer', 'Train on pairs with compile({loss: preferenceLoss()}).'];
    const got = isPair(example) ? 'a pair' : `the keys ${Object.keys(example ?? {}).join(', ') || '(none)'}`;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index}: expected ${expected}, got ${got}. ${advice}`,
    );
  }
  if (isPair(example)) {
    for (const side of ['chosen', 'rejected'] as const)
      assertRow(example[side], `example ${index} ${side}`, limits);
  } else assertRow(example, `example ${index}`, limits);
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
    throw new TfjsLoraError('INVALID_ARGUMENT', `${place} inputIds: expected token ids, got ${got}`);
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
