import {existsSync, readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {generateIds} from '../../models/generation/generate.ts';
import {Llama} from '../../src/index.ts';
import {describeEachBackend} from '../describeEachBackend.ts';

const ROOT = resolve(__dirname, '../..');
const FOLDER = join(resolve(ROOT, process.env.TFJS_LORA_DATA ?? '../shared/data'), 'stories260k');
const isThere = existsSync(join(FOLDER, 'expected.json'));

jest.setTimeout(120_000);

describeEachBackend('real weights: stories260k', () => {
  const testWithData = isThere ? test : test.skip;

  testWithData(
    `greedy continuation${isThere ? '' : ` (skipped: no ${FOLDER}; set TFJS_LORA_DATA)`}`,
    async () => {
      const {prompt_ids: prompt, greedy_ids: expected} = JSON.parse(
        readFileSync(join(FOLDER, 'expected.json'), 'utf8'),
      ) as {prompt_ids: number[]; greedy_ids: number[]};
      const tensorsBefore = tf.memory().numTensors;
      const model = await Llama.fromPretrained(FOLDER);
      const ids = await generateIds(model, prompt, {
        maxNewTokens: expected.length,
        eosTokenId: [],
        doSample: false,
      });
      expect(ids).toEqual(expected);
      expect(expected).toHaveLength(180);
      model.dispose();
      expect(tf.memory().numTensors).toBe(tensorsBefore);
    },
  );
});
