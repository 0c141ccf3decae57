import {TfjsLoraError} from '../../../../quant/errors.ts';
import {inRecipeKeys} from '../../../../src/tools/recipes/inRecipeKeys.ts';
import {InsufficientMemoryError} from '../../../../src/training/run/insufficientMemoryError.ts';

test('advice on memory names recipe keys, whatever the rest of the message says', () => {
  const need =
    'training memory: expected less, got an estimate for batchSize 8 with examples of at most 9 tokens.';
  const error = new InsufficientMemoryError(need, [
    {settings: {gradientCheckpointing: true}, total: 5 * 2 ** 20},
    {settings: {gradientCheckpointing: 'offload'}, total: 4 * 2 ** 20},
    {settings: {batchSize: 2, gradientAccumulationSteps: 4}, total: 3 * 2 ** 20},
    {settings: {sequenceLength: 64}, total: 2 * 2 ** 20},
    {settings: {quantization: 'nf4', optimizer: 'paged_adamw_8bit'}},
  ]);
  expect(error.message).toBe(
    `${need} Change model.gradientCheckpointing = true (5.0 MiB), then model.gradientCheckpointing = 'offload' ` +
      '(4.0 MiB), then batchSize 2 with gradientAccumulationSteps 4 (3.0 MiB), then examples of at most 64 tokens ' +
      '(2.0 MiB), then quantization of the base weights to nf4 and a paged or 8-bit optimizer. Otherwise use a ' +
      'smaller model.',
  );
  expect(inRecipeKeys(error)).toMatchObject({
    code: 'INSUFFICIENT_MEMORY',
    cause: error,
    message:
      `${need} Change disable_gradient_checkpointing: false (5.0 MiB), then use_unsloth_gc: true (4.0 MiB), then ` +
      'per_device_train_batch_size: 2 with gradient_accumulation_steps: 4 (3.0 MiB), then cutoff_len: 64 (2.0 MiB), ' +
      'then quantization_bit: 4 and optim: paged_adamw_8bit. Otherwise use a smaller model.',
  });
  const other = new TfjsLoraError(
    'INSUFFICIENT_MEMORY',
    'backend wasm: expected room for batchSize 1 with more',
  );
  expect(inRecipeKeys(other)).toBe(other);
});
