import * as tf from '@tensorflow/tfjs';
import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {registerCardKernels} from '../../../../../layers/kernels/tensorflow/registerCardKernels.ts';
import {AdamW, AdamW8bit, Lion, Lion8bit, PagedLion8bit, useBackend} from '../../../../../src/index.ts';
import type {PreparedStep} from '../../../../../src/training/optimizers/namedStateOptimizer.ts';

/** As in `describedStack.test.ts`. The engine returns 2 for next values, and words of 3, 4 … for next states. */
const path = process.env.TFJS_LORA_DESCRIBING_ENGINE;

(path ? describe : describe.skip)('optimizers of a card hand over', () => {
  let engine: {described(): string};
  const backend = () => tf.backend() as TensorFlowBackend;

  beforeAll(async () => {
    await useBackend('tensorflow', {computeDtype: 'float32', fusedOps: true});
    engine = require(path as string);
    settingsOf(backend()).hasCardOps = true;
    registerCardKernels(backend());
  });
  afterAll(() => {
    settingsOf(backend()).hasCardOps = false;
    registerCardKernels(backend());
  });

  /** Makes two variables of 8 values of each kind; the second kind's states are too small for 8 bits. */
  const variables = () => [
    tf.variable(tf.fill([5, 100], 7), true, 'a.lora_A'),
    tf.variable(tf.fill([300, 2], 8), true, 'a.lora_B'),
    tf.variable(tf.fill([3], 9), true, 'small'),
  ];
  const gradients = () => ({
    'a.lora_A': tf.fill([5, 100], 10),
    'a.lora_B': tf.fill([300, 2], 11),
    small: tf.fill([3], 12),
  });

  const settings = {learningRate: 0.5, beta1: 0.75, beta2: 0.5, weightDecay: 0.25, min8bitSize: 400};
  const rate = {0: 0.5, 1: 0.5} as const;
  test.each([
    [
      'AdamW8bit',
      () => new AdamW8bit({...settings, epsilon: 0.125}),
      `rule 1 factors ${settings.beta1} 0.125 map 1\n500 of 7 gradient 10 states 0 0 0 0\n600 of 8 gradient 11 states 0 0 0 0`,
      [125, 2, 125, 2],
    ],
    [
      'Lion8bit',
      () => new Lion8bit(settings),
      `rule 3 factors ${settings.beta1} ${rate[0]} map 1\n500 of 7 gradient 10 states 0 0\n600 of 8 gradient 11 states 0 0`,
      [125, 2],
    ],
  ] as const)('%s: one op, its states in words', async (_name, make, text, sizes) => {
    const [first, second, small] = variables();
    const optimizer = make();
    const given = gradients();
    engine.described();
    optimizer.applyGradients(given);
    expect(engine.described()).toContain(text);
    expect([first, second].map((variable) => variable.dataSync()[0])).toEqual([2, 2]);
    expect([first, second].map(({shape}) => shape)).toEqual([
      [5, 100],
      [300, 2],
    ]);
    const entries = optimizer.stateEntries().filter(({name}) => name.startsWith('a.lora_A/'));
    expect(entries.map(({shape}) => shape)).toEqual(sizes.map((size) => [size]));
    for (const [i, {dtype, read}] of entries.entries()) {
      expect(dtype).toBe(i % 2 === 0 ? 'int32' : 'float32');
      const {buffer, byteOffset} = await read();
      expect(new Int32Array(buffer, byteOffset)[0]).toBe(3 + i);
    }
    const before = backend().getNumOfTFTensors();
    optimizer.applyGradients(given);
    expect(engine.described()).toContain('500 of 2 gradient 10 states 3 4');
    expect(backend().getNumOfTFTensors()).toBe(before);
    optimizer.dispose();
    tf.dispose([first, second, small, ...Object.values(given)]);
  });

  test('Lion: updates all variables of one rate in one op', () => {
    const all = variables();
    const optimizer = new Lion({...settings, min8bitSize: undefined, loraPlusRatio: 4} as object);
    const given = gradients();
    engine.described();
    optimizer.applyGradients(given);
    const [first, second] = engine
      .described()
      .trim()
      .split(/(?=rule)/);
    expect(first).toBe('rule 2 factors 0.75 0.5\n500 of 7 gradient 10 states 0\n');
    expect(second).toBe('rule 2 factors 0.75 2\n600 of 8 gradient 11 states 0\n3 of 9 gradient 12 states 0');
    optimizer.dispose();
    tf.dispose([...all, ...Object.values(given)]);
  });

  test('passes on the norm of the gradients, unread, and its bound', () => {
    const all = variables();
    const optimizer = new AdamW({learningRate: 0.5, beta1: 0.75});
    const given = gradients();
    const unread = {norm: tf.scalar(6), numbers: tf.tensor1d([6, 1])};
    const prepared = () => optimizer.prepareStep(given, unread, 3) as PreparedStep;
    engine.described();
    const left = prepared();
    expect(engine.described()).toMatch(
      /^rule 0 factors 0.75 \S+ norm 6 of at most 3\n500 of 7 gradient 10 states 0 0/,
    );
    left.end();
    expect([all[0].dataSync()[0], optimizer.iterations]).toEqual([7, 0]);
    const applied = prepared();
    applied.apply();
    applied.end();
    expect([all[0].dataSync()[0], optimizer.iterations]).toEqual([2, 1]);
    optimizer.dispose();
    tf.dispose([...all, ...Object.values(unread), ...Object.values(given)]);
  });

  test('a paged optimizer updates one variable after another', () => {
    const all = variables();
    const optimizer = new PagedLion8bit(settings);
    const given = gradients();
    engine.described();
    optimizer.applyGradients(given);
    expect(engine.described().match(/rule 3/g)).toHaveLength(2);
    optimizer.dispose();
    tf.dispose([...all, ...Object.values(given)]);
  });
});
