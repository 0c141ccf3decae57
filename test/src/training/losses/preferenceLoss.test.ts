import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {
  AdamW,
  collate,
  type Evaluation,
  Llama,
  preferenceLoss,
  type Reference,
} from '../../../../src/index.ts';
import {describeFastBackends} from '../../../describeEachBackend.ts';
import {quickstartLlama} from './quickstartLlama.ts';

const pairs = [
  {prompt: 'What is water?', chosen: 'Wet.', rejected: 'A stone of some kind.'},
  {
    prompt: [{role: 'user' as const, content: 'And fire?'}],
    chosen: [{role: 'assistant' as const, content: 'Hot.'}],
    rejected: 'Cold.',
  },
];

describeFastBackends('preferenceLoss', () => {
  let model: Llama;
  let tensorsBefore: number;
  beforeEach(async () => {
    tensorsBefore = tf.memory().numTensors;
    model = await quickstartLlama();
    model.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 0});
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test('starts at log 2, because the adapter adds nothing yet, and learns which answer is better', async () => {
    const optimizer = new AdamW({learningRate: 0.02});
    model.compile({optimizer, loss: preferenceLoss({beta: 0.5})});
    const {steps} = await model.fitDataset(pairs, {epochs: 30, batchSize: 2, verbose: 0});
    expect(steps[0].loss).toBeCloseTo(Math.LN2, 5);
    expect(steps[0].tokens).toBe(2);
    expect(steps.at(-1)!.loss).toBeLessThan(0.4);
    expect(steps.at(-1)!.metrics).toMatchObject({'rewards/accuracies': 1});
    const {loss, perplexity, metrics, examples} = await model.evaluateDataset(pairs);
    expect(loss).toBeLessThan(0.4);
    expect([perplexity, examples]).toEqual([Number.NaN, 2]);
    expect(metrics!['rewards/margins']).toBeGreaterThan(0);
    optimizer.dispose();
  });

  test('differentiates what it computes', async () => {
    model.compile({optimizer: 'sgd', loss: preferenceLoss({type: 'orpo', ftx: 0.5, ldAlpha: 0.3})});
    const dataset = await model.dataset(pairs);
    const batch = collate([...dataset]);
    const {gradients, loss} = await model.computeGradients(batch);
    const [name, variable] = [...model.trainableParameters()].find(([key]) => key.includes('lora_B'))!;
    const slope = gradients[name].arraySync() as number[][];
    const values = variable.arraySync() as number[][];
    const step = 1e-2;
    values[0][0] += step;
    tf.tidy(() => variable.assign(tf.tensor2d(values)));
    const after = await model.computeGradients(batch);
    values[0][0] -= 2 * step;
    tf.tidy(() => variable.assign(tf.tensor2d(values)));
    const before = await model.computeGradients(batch);
    expect((after.loss - before.loss) / (2 * step)).toBeCloseTo(slope[0][0], 2);
    expect(Number.isFinite(loss)).toBe(true);
    tf.dispose([gradients, after.gradients, before.gradients]);
  });

  test('packs no pair, and shows both answers', async () => {
    await expect(model.dataset(pairs, {packing: true})).rejects.toThrow(
      'dataset record 0: expected a single answer with packing, got a pair. Leave packing out.',
    );
    const lines: string[] = [];
    (await model.dataset(pairs)).preview(0, (text) => lines.push(text));
    expect(
      lines
        .join()
        .split('\n')
        .filter((line) => line.includes('⟦')),
    ).toEqual(['Wet.<|eot_id|>⟧'.replace(/^/, '⟦'), '⟦A stone of some kind.<|eot_id|>⟧']);
  });

  test('data and loss must belong together', async () => {
    const single = [{prompt: 'What is water?', completion: 'Wet.'}];
    await expect(model.fitDataset(pairs, {verbose: 0})).rejects.toThrow(
      'example 0: expected a single answer, got a pair. Train on pairs with compile({loss: preferenceLoss()}).',
    );
    model.compile({loss: preferenceLoss()});
    await expect(model.fitDataset(single, {verbose: 0})).rejects.toThrow(
      'example 0: expected a pair {chosen, rejected}, which the compiled loss compares, got the keys inputIds, labels',
    );
    await expect(model.trainOnBatch({inputIds: [[1, 2]], labels: [[1, 2]]})).rejects.toThrow(
      'preferenceLoss sigmoid batch inputIds: expected pairs, the chosen answers before the rejected ones, got 1 rows',
    );
  });

  test('compares with another model, or with another adapter of the model', async () => {
    const other = Llama.fromConfig({...model.config}, {seed: 2});
    const evaluate = (reference?: Reference): Promise<Evaluation> => {
      model.compile({loss: preferenceLoss({reference})});
      return model.evaluateDataset(pairs);
    };
    expect((await evaluate()).loss).toBeCloseTo(Math.LN2, 5);
    expect((await evaluate(other)).metrics!['rewards/margins']).not.toBeCloseTo(0, 5);
    other.dispose();
    model.applyLoRA({rank: 2, targetModules: 'all-linear', adapterName: 'sft'});
    for (const [key, weight] of model.trainableParameters())
      if (key.includes('lora_B')) tf.tidy(() => weight.assign(tf.fill(weight.shape, 0.1)));
    model.setAdapter('default');
    const {metrics} = await evaluate('sft');
    model.setAdapter('sft');
    const mirrored = (await evaluate('default')).metrics!;
    expect(metrics!['rewards/margins']).not.toBeCloseTo(0, 5);
    expect(mirrored['rewards/margins']).toBeCloseTo(-metrics!['rewards/margins'], 5);
    await expect(evaluate('sft')).rejects.toThrow(
      'preferenceLoss sigmoid reference: expected adapters that are not active, got "sft", which trains.',
    );
    await expect(evaluate('none')).rejects.toThrow('expected an adapter out of default, sft, got "none"');
  });

  test('needs an adapter, whose model without it is the reference, unless it needs none', async () => {
    model.deleteAdapter('default');
    model.compile({loss: preferenceLoss()});
    await expect(model.evaluateDataset(pairs)).rejects.toThrow(
      'compile loss preferenceLoss sigmoid: expected an adapter, because the model without it is the reference, got none.',
    );
    model.compile({loss: preferenceLoss({type: 'simpo'})});
    expect((await model.evaluateDataset(pairs)).loss).toBeGreaterThan(0);
  });
});

test.each([
  [{type: 'dpo' as never}, 'type: expected sigmoid, hinge, ipo, kto_pair, orpo, simpo, got "dpo"'],
  [{beta: 0}, 'beta: expected a number above 0, got 0'],
  [{type: 'kto_pair' as const, ftx: 1}, 'ftx: expected none with kto_pair, got 1'],
  [{type: 'ipo' as const, labelSmoothing: 0.1}, 'labelSmoothing: expected none with ipo, got 0.1'],
  [{type: 'orpo' as const, reference: 'sft'}, 'reference: expected none with orpo, got "sft"'],
  [{ldAlpha: 2}, 'ldAlpha: expected a number from 0 to 1, got 2'],
])('preferenceLoss(%j) is refused', (args, message) => {
  expect(() => preferenceLoss(args)).toThrow(TfjsLoraError);
  expect(() => preferenceLoss(args)).toThrow(`preferenceLoss ${message}`);
});
