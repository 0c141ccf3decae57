import * as tf from '@tensorflow/tfjs';
import {ValueHead} from '../layers/valueHead.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {type FolderSource, openFolder} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import type {TensorToWrite} from '../quant/safetensors/writeSafetensors.ts';

/** File of a value head beside an adapter's or a model's files, as LLaMA-Factory names it. */
export const VALUE_HEAD_FILE = 'value_head.safetensors';
/** Name of a value head's layer, as in LLaMA-Factory's file. */
const NAME = 'v_head.summary';

/** Whether a weight's name or key is one of a value head. */
export const isOfValueHead = (name: string): boolean => name.startsWith(`${NAME}.`);

/** Options of a new value head. */
export interface ValueHeadOptions {
  /**
   * Probability of dropping an input in training, 0 ≤ p < 1. Default: `summary_dropout_prob` of the model's config, or
   * 0.1.
   */
  dropout?: number;
  /** Seed for the random initial weights. Default 0. */
  seed?: number;
}
const VALUE_HEAD_OPTIONS = {dropout: true} satisfies OptionNames<Pick<ValueHeadOptions, 'dropout'>>;

export interface LoadValueHeadOptions extends Pick<ValueHeadOptions, 'dropout'> {
  /** Whether it trains. Default false: it is frozen. */
  trainable?: boolean;
}

/** Makes a value head for hidden states of `size` numbers. */
export function newValueHead(size: number, options: ValueHeadOptions): ValueHead {
  const head = new ValueHead({name: NAME, ...options});
  head.build([null, null, size]);
  return head;
}

/** Returns the tensors of `value_head.safetensors`, in float32. */
export function valueHeadTensors(head: ValueHead): TensorToWrite[] {
  return [...head.parameters].map(([name, parameter]) => ({
    name: `${NAME}.${name}`,
    dtype: 'F32',
    shape: parameter.logicalShape,
    data: () => parameter.toBytes('float32'),
  }));
}

/**
 * Reads the value head of a folder's `value_head.safetensors`; the caller disposes it. `CausalLM.values` takes it as
 * `head`, so that one model can score with several heads.
 *
 * @param size hidden size of the model
 * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `MISSING_TENSOR`, `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`,
 *   `NON_FINITE`
 */
export async function readValueHead(
  source: FolderSource,
  size: number,
  options: Pick<ValueHeadOptions, 'dropout'> = {},
): Promise<ValueHead> {
  assertKnownOptions('readValueHead', options, VALUE_HEAD_OPTIONS);
  const file = await openFolder(source).openSafetensors(VALUE_HEAD_FILE);
  const head = newValueHead(size, options);
  try {
    const extra = file.names().find((name) => !head.parameters.has(name.slice(NAME.length + 1)));
    if (extra !== undefined) {
      throw new TfjsLoraError(
        'UNEXPECTED_TENSOR',
        `tensor ${extra} (${file.path}): expected only ${[...head.parameters.keys()].map((key) => `${NAME}.${key}`).join(', ')}`,
      );
    }
    for (const [key, parameter] of head.parameters) {
      const name = `${NAME}.${key}`;
      const where = `tensor ${name} (${file.path})`;
      const {dtype, shape} = file.info(name);
      if (!tf.util.arraysEqual([...shape], parameter.logicalShape)) {
        throw new TfjsLoraError(
          'SHAPE_MISMATCH',
          `${where}: expected [${parameter.logicalShape}] for the model's hidden size, got [${shape}]. ` +
            'The value head was made for another model.',
        );
      }
      parameter.load(await file.load(name), dtype, {where});
    }
    return head;
  } catch (error) {
    head.dispose();
    throw error;
  } finally {
    file.close();
  }
}
