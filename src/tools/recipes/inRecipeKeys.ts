import {TfjsLoraError} from '../../../quant/errors.ts';

/** What the refusal of a run that needs too much memory advises, and the recipe keys that do it. */
const KEYS: readonly [advice: RegExp, keys: string][] = [
  [/model\.gradientCheckpointing = true/, 'disable_gradient_checkpointing: false'],
  [/model\.gradientCheckpointing = 'offload'/, 'use_unsloth_gc: true'],
  [/batchSize (\d+) with/, 'per_device_train_batch_size: $1 with'],
  [/gradientAccumulationSteps (\d+)/, 'gradient_accumulation_steps: $1'],
  [/examples of at most (\d+) tokens/, 'cutoff_len: $1'],
  [
    /quantization of the base weights to nf4 and a paged or 8-bit optimizer/,
    'quantization_bit: 4 and optim: paged_adamw_8bit',
  ],
];

/** Returns the refusal of a run that needs too much memory with recipe keys in its advice, and other errors as they are. */
export function inRecipeKeys(error: unknown): unknown {
  if (!(error instanceof TfjsLoraError) || error.code !== 'INSUFFICIENT_MEMORY') return error;
  const message = KEYS.reduce((text, [advice, keys]) => text.replace(advice, keys), error.message);
  return new TfjsLoraError(error.code, message, {cause: error});
}
