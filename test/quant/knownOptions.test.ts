import {assertKnownArgs, assertKnownOptions} from '../../quant/index.ts';

const LORA = {rank: true, alpha: true, dropout: true, targetModules: true} as const;
const FIT = {epochs: true, batchSize: true, gradientAccumulationSteps: true} as const;

const messageOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('expected an error, got none');
};

describe('assertKnownOptions', () => {
  test.each([
    ['applyLoRA', LORA, 'r', 'Use rank.'],
    ['applyLoRA', LORA, 'lora_alpha', 'Use alpha.'],
    ['applyLoRA', LORA, 'target_modules', 'Use targetModules.'],
    ['applyLoRA', LORA, 'loraDropout', 'Use dropout.'],
    ['applyLoRA', LORA, 'droput', 'Did you mean dropout?'],
    ['applyLoRA', LORA, 'lr', 'Use compile({optimizer: new AdamW({learningRate: 1e-4})}).'],
    ['applyLoRA', LORA, 'load_in_4bit', "Use fromPretrained(folder, {quantization: {type: 'nf4'}})."],
    ['fitDataset', FIT, 'per_device_train_batch_size', 'Use batchSize.'],
    ['fitDataset', FIT, 'batch_size', 'Use batchSize.'],
    ['fitDataset', FIT, 'num_train_epochs', 'Use epochs.'],
    ['fitDataset', FIT, 'gradient_accumulation_steps', 'Use gradientAccumulationSteps.'],
    ['fitDataset', FIT, 'max_grad_norm', 'Use compile({maxGradNorm: 1}).'],
    ['fitDataset', FIT, 'learningRate', 'Use compile({optimizer: new AdamW({learningRate: 1e-4})}).'],
    ['fitDataset', FIT, 'validation_split', 'Use splitValidation(examples, 0.1),'],
    ['fitDataset', FIT, 'rank', 'Use applyLoRA({rank: 8}).'],
    ['fitDataset', FIT, 'constructor', 'Did you mean'],
    ['fitDataset', FIT, '__proto__x', 'Did you mean'],
  ])('%s: %s says what to do about %s', (call, known, name, advice) => {
    const message = messageOf(() => assertKnownOptions(call, {[name]: 1}, known));
    expect(message).toContain(`${call} ${name}: expected some of ${Object.keys(known).join(', ')}, got`);
    expect(message).toContain(advice);
    expect(messageOf(() => assertKnownOptions(call, {...{[name]: 0}}, known))).toContain(advice);
  });

  test('accepts known options, undefined ones, and none at all', () => {
    assertKnownOptions('fitDataset', {epochs: 1, nonsense: undefined}, FIT);
    assertKnownOptions('fitDataset', {}, FIT);
    assertKnownOptions('fitDataset', undefined, FIT);
  });

  test.each([
    [null, 'null'],
    [8, 'a number'],
    ['nf4', 'a string'],
    [[8], 'an array'],
  ])('refuses %j as options', (options, got) => {
    expect(() => assertKnownOptions('applyLoRA', options, LORA)).toThrow(
      `applyLoRA options: expected an object such as {rank: …}, got ${got}`,
    );
  });

  test('shortens a very long name', () => {
    const name = 'x'.repeat(1e6);
    expect(messageOf(() => assertKnownOptions('fitDataset', {[name]: 1}, FIT)).length).toBeLessThan(400);
  });
});

describe('assertKnownArgs', () => {
  class Base {
    static readonly optionNames = {rate: true} as const;
    constructor(args: object) {
      assertKnownArgs(new.target, args);
    }
  }
  class Free extends Base {}
  class Listed extends Base {
    static override readonly optionNames = {...Base.optionNames, more: true} as const;
  }

  test('checks a class by its own list, and does not check a subclass without one', () => {
    expect(() => new Base({rat: 1})).toThrow('Base rat: expected rate, got');
    expect(() => new Listed({rate: 1, more: 2})).not.toThrow();
    expect(() => new Listed({other: 2})).toThrow('Listed other');
    expect(() => new Free({other: 2})).not.toThrow();
  });
});
