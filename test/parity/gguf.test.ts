import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {Tokenizer} from '../../models/tokenizer.ts';
import {AutoModelForCausalLM} from '../../src/index.ts';

/** The folder that make_gguf_models.py writes to. */
const FIXTURES = join(__dirname, 'gguf/fixtures');

interface GoldenModel {
  ids: number[];
  /** Of the last positions. */
  logits: number[][];
  texts?: [text: string, ids: number[]][];
}

const goldens: Record<string, GoldenModel> = JSON.parse(readFileSync(join(FIXTURES, 'models.json'), 'utf8'));
const pathOf = (name: string) => join(FIXTURES, `${name}.gguf`);

beforeAll(() => tf.setBackend('cpu'));

describe.each(Object.entries(goldens))('the GGUF model %s', (name, {ids, logits, texts}) => {
  it('has the logits of transformers with the dequantized weights', async () => {
    const before = tf.memory().numTensors;
    const model = await AutoModelForCausalLM.fromPretrained(pathOf(name));
    const output = model.predict([ids]);
    const [all] = await output.array();
    output.dispose();
    const last = all.slice(-logits.length);
    const largest = Math.max(...logits.flat().map(Math.abs));
    const differences = last.flatMap((row, i) => row.map((value, j) => Math.abs(value - logits[i][j])));
    expect(last[0]).toHaveLength(logits[0].length);
    expect(Math.max(...differences) / largest).toBeLessThan(2e-5);
    expect(model.tokenizer === undefined).toBe(texts === undefined);
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  const testOfTexts = texts ? it : it.skip;
  testOfTexts('splits texts as the peer’s tokenizer does', async () => {
    const tokenizer = await Tokenizer.fromFolder(pathOf(name));
    const got = texts!.map(([text]) => [text, tokenizer.encode(text)]);
    expect(got).toEqual(texts);
    for (const [text, ids] of texts!) {
      const bare = tokenizer.decode(ids, {skipSpecialTokens: true});
      if (!text.includes('<|')) expect(bare.trimStart()).toBe(text.normalize('NFC').trimStart());
    }
    expect(tokenizer.applyChatTemplate([{role: 'user', content: 'hi'}])).toBe('<|start|>hi<|end|>');
  });
});
