import {InsufficientMemoryError, type MemoryWords} from '../../training/run/insufficientMemoryError.ts';

const KEYS: MemoryWords = {
  gradientCheckpointing: (value) =>
    value === 'offload' ? 'use_unsloth_gc: true' : `disable_gradient_checkpointing: ${!value}`,
  batchSize: (value) => `per_device_train_batch_size: ${value}`,
  gradientAccumulationSteps: (value) => `with gradient_accumulation_steps: ${value}`,
  sequenceLength: (value) => `cutoff_len: ${value}`,
  quantization: () => 'quantization_bit: 4',
  optimizer: (value) => `and optim: ${value}`,
};

/** Returns the refusal of a run that needs too much memory with recipe keys in its advice, and other errors as they are. */
export const inRecipeKeys = (error: unknown): unknown =>
  error instanceof InsufficientMemoryError ? error.in(KEYS) : error;
