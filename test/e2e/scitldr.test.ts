import {existsSync, readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type Example, Llama, useBackend} from '../../src/index.ts';

const DATA = resolve(__dirname, '../..', process.env.TFJS_LORA_DATA ?? '../shared/data');
const isThere = existsSync(join(DATA, 'stories260k')) && existsSync(join(DATA, 'scitldr'));
const WHY = isThere ? '' : ` (skipped: no stories260k and scitldr in ${DATA}; set TFJS_LORA_DATA)`;

/** A model that was trained on children's stories learns the language of paper abstracts. */
describe('LoRA on real weights and real text', () => {
  (isThere ? test : test.skip)(`lowers the loss on abstracts never seen${WHY}`, async () => {
    await useBackend('wasm');
    const model = await Llama.fromPretrained(join(DATA, 'stories260k'));
    const examples = (file: string, count: number): Example[] => {
      const records = JSON.parse(readFileSync(join(DATA, 'scitldr', file), 'utf8')) as {input: string}[];
      return records
        .slice(0, count)
        .map(({input}) => ({inputIds: model.tokenizer!.encode(input).slice(0, 96)}));
    };
    const heldOut = examples('dev.json', 32);
    const before = await model.evaluateDataset(heldOut, {batchSize: 16});

    model.applyLoRA({rank: 8, seed: 0});
    model.compile({optimizer: new AdamW({learningRate: 5e-3}), schedule: {name: 'cosine', warmupRatio: 0.1}});
    const tensors = tf.memory().numTensors;
    await model.fitDataset(examples('train.json', 256), {batchSize: 8, verbose: 0});
    const optimizerState = 2 * model.trainableParameters().size;
    expect(tf.memory().numTensors).toBe(tensors + optimizerState);

    const after = await model.evaluateDataset(heldOut, {batchSize: 16});
    const base = await model.withoutAdapter(() => model.evaluateDataset(heldOut, {batchSize: 16}));
    expect(base.loss).toBeCloseTo(before.loss, 5);
    expect(after.loss).toBeLessThan(0.75 * before.loss);
    if (process.env.TFJS_LORA_VERBOSE) process.stderr.write(`held-out loss ${before.loss} → ${after.loss}\n`);
    model.dispose();
  });
});
