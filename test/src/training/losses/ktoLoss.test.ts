import * as tf from '@tensorflow/tfjs';
import {AdamW, collate, ktoLoss, type Llama, type VerdictExample} from '../../../../src/index.ts';
import {describeFastBackends} from '../../../describeEachBackend.ts';
import {quickstartLlama} from './quickstartLlama.ts';

const verdicts = [
  {prompt: 'What is water?', completion: 'Wet.', label: true},
  {prompt: 'And fire?', completion: 'A stone of some kind.', label: false},
  {prompt: [{role: 'user' as const, content: 'And ice?'}], completion: 'Frozen water.', label: true},
];

describeFastBackends('ktoLoss', () => {
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

  test('starts at a half, because the adapter adds nothing yet, and learns the verdicts', async () => {
    const optimizer = new AdamW({learningRate: 0.1});
    model.compile({optimizer, loss: ktoLoss({beta: 0.5})});
    const {steps} = await model.fitDataset(verdicts, {epochs: 4, batchSize: 3, verbose: 0});
    expect(steps[0].tokens).toBe(3);
    expect(steps[0].metrics!.kl).toBeCloseTo(0, 4);
    expect(steps[0].loss).toBeCloseTo(0.5, 5);
    expect(steps.at(-1)!.loss).toBeLessThan(0.49);
    const {loss, metrics, examples, perplexity} = await model.evaluateDataset(verdicts, {batchSize: 2});
    expect(loss).toBeLessThan(0.49);
    expect([examples, perplexity]).toEqual([3, Number.NaN]);
    expect(metrics!['rewards/margins']).toBeCloseTo(
      metrics!['rewards/chosen'] - metrics!['rewards/rejected'],
      6,
    );
    expect(metrics!['rewards/margins']).toBeGreaterThan(0);
    optimizer.dispose();
  });

  test('weighs verdicts, and describes only the kinds of answers that there are', async () => {
    const bad = [verdicts[1]];
    model.compile({loss: ktoLoss({rejectedWeight: 3, chosenWeight: 0, ftx: 1})});
    const {loss, metrics} = await model.evaluateDataset(bad);
    expect(loss).toBeCloseTo(1.5, 5);
    expect(Object.keys(metrics!).sort()).toEqual(['kl', 'logps/rejected', 'rewards/rejected']);
    const good = await model.evaluateDataset([verdicts[0]]);
    const [{answer}] = [...(await model.dataset([verdicts[0]]))] as unknown as VerdictExample[];
    model.compile();
    const plain = await model.evaluateDataset([answer]);
    expect(good.loss).toBeCloseTo(plain.loss, 4); // only the answer's own cross-entropy is left
  });

  test('an answer comes after the next prompt for KL; a verdict is no pair', async () => {
    const examples = [...(await model.dataset(verdicts))] as unknown as VerdictExample[];
    const learned = ({inputIds, labels}: VerdictExample['answer']) =>
      model.tokenizer!.decode(inputIds.filter((_, t) => labels![t] !== -100));
    expect(
      examples.map(({answer, mismatched, desirable}) => [learned(answer), learned(mismatched), desirable]),
    ).toEqual([
      ['Wet.<|eot_id|>', 'Frozen water.<|eot_id|>', true],
      ['A stone of some kind.<|eot_id|>', 'Wet.<|eot_id|>', false],
      ['Frozen water.<|eot_id|>', 'A stone of some kind.<|eot_id|>', true],
    ]);
    const batch = collate(examples);
    expect(batch.desirable).toEqual([true, false, true]);
    expect(batch.inputIds).toHaveLength(6);
    await expect(model.fitDataset(verdicts, {verbose: 0})).rejects.toThrow(
      'example 0: expected a single answer, got a verdict.',
    );
    model.compile({loss: ktoLoss()});
    await expect(model.fitDataset([{prompt: 'x', completion: 'y'}], {verbose: 0})).rejects.toThrow(
      'example 0: expected an answer with a verdict {answer, mismatched, desirable}, which the compiled loss judges',
    );
    await expect(model.trainOnBatch({...batch, desirable: [true]})).rejects.toThrow(
      'ktoLoss batch desirable: expected a verdict on each answer, whose rows come before as many mismatched ones, got 1 for 6 rows',
    );
    async function* stream() {
      yield* verdicts;
    }
    await expect(model.fitDataset(stream, {maxSteps: 1, verbose: 0})).rejects.toThrow(
      'expected a list of records with a verdict, because their answers are exchanged, got a stream. Pass a list.',
    );
    await expect(model.dataset(verdicts, {packing: true})).rejects.toThrow('Leave packing out.');
    await expect(model.dataset([{...verdicts[0], completion: ''}])).rejects.toThrow(
      'expected an answer to learn',
    );
    await expect(model.dataset([{text: 'x', label: true} as never])).rejects.toThrow(
      'label: expected none, got true. Only records of {prompt, completion, label} have a verdict',
    );
    const lines: string[] = [];
    (await model.dataset(verdicts)).preview(1, (text) => lines.push(text));
    expect(lines.join().split('⟦')).toHaveLength(2);
  });

  test('needs a reference', async () => {
    model.deleteAdapter('default');
    model.compile({loss: ktoLoss()});
    await expect(model.evaluateDataset(verdicts)).rejects.toThrow(
      'compile loss ktoLoss: expected an adapter, because the model without it is the reference, got none.',
    );
    const reference = await quickstartLlama();
    model.compile({loss: ktoLoss({reference})});
    expect((await model.evaluateDataset(verdicts)).loss).toBeCloseTo(0.5, 5);
    reference.dispose();
  });
});

test.each([
  [{beta: 0}, 'beta: expected a number above 0, got 0'],
  [{chosenWeight: -1}, 'chosenWeight: expected a number from 0, got -1'],
  [{ftx: Number.NaN}, 'ftx: expected a number from 0, got NaN'],
])('ktoLoss(%j) is refused', (args, message) => {
  expect(() => ktoLoss(args)).toThrow(`ktoLoss ${message}`);
});
