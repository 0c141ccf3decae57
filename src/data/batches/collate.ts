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
}

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

/** Pads examples on the right into one batch, labels with −100 and the mask with 0. */
export function collate(examples: Example[], options: CollateOptions = {}): Batch {
  assertKnownOptions('collate', options, COLLATE_OPTIONS);
  const {padTokenId = 0, padToMultipleOf = 8, maxLength} = options;
  if (examples.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'collate: expected at least one example, got none');
  }
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
}

/**
 * Checks one example.
 *
 * @throws TfjsLoraError naming the example: `INVALID_ARGUMENT` when it is empty, too long or has nothing to learn,
 *   `SHAPE_MISMATCH`, `VOCABULARY_MISMATCH`
 */
export function assertExample(
  example: Example,
  index: number,
  {maxLength, vocabSize = Number.POSITIVE_INFINITY}: ExampleLimits = {},
): void {
  assertSpelling(example, index);
  const {inputIds, labels, attentionMask, positionIds} = example ?? {};
  if (!Array.isArray(inputIds) || inputIds.length === 0) {
    const got = Array.isArray(inputIds) ? 'an empty list' : `${inputIds && typeof inputIds}`;
    throw new TfjsLoraError('INVALID_ARGUMENT', `example ${index} inputIds: expected token ids, got ${got}`);
  }
  for (const [key, values] of Object.entries({labels, attentionMask, positionIds})) {
    if (values === undefined || values.length === inputIds.length) continue;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `example ${index} ${key}: expected ${counted(inputIds.length, 'value')} (one per token), got ${values.length}`,
    );
  }
  if (maxLength !== undefined && inputIds.length > maxLength) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index}: expected at most ${counted(maxLength, 'token')} (max_position_embeddings), got ${inputIds.length}. ` +
        'Shorten it (cutoffLength, or cutoff_len in a recipe).',
    );
  }
  const isId = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize;
  const wrongId = inputIds.find((id) => !isId(id));
  const wrongLabel = labels?.find((label) => label !== IGNORE_INDEX && !isId(label));
  if (wrongId !== undefined || wrongLabel !== undefined) {
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `example ${index} ${wrongId === undefined ? 'labels' : 'inputIds'}: expected ids from 0 to ${vocabSize - 1}, ` +
        `got ${wrongId ?? wrongLabel}. Use the tokenizer that belongs to the model.`,
    );
  }
  if (!labelsOf(example).some((label, t) => t > 0 && label !== IGNORE_INDEX)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index} labels: expected at least one after the first token that is not -100, got ` +
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
function assertSpelling(example: Example, index: number): void {
  for (const key of Object.keys(example ?? {})) {
    const meant = KEYS.get(key.replaceAll('_', '').toLowerCase());
    if (meant === undefined || meant === key) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index} ${key}: expected ${meant}, got another spelling of it. Rename the key.`,
    );
  }
}
