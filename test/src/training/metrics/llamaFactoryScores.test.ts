import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {characterBleu, corpusBleu} from '../../../../src/training/metrics/bleu.ts';
import {jiebaRouge} from '../../../../src/training/metrics/jiebaRouge.ts';
import {jiebaWords} from '../../../../src/training/metrics/jiebaWords.ts';
import {
  type LlamaFactoryScores,
  llamaFactoryScores,
} from '../../../../src/training/metrics/llamaFactoryScores.ts';
import {roundTo4} from '../../../../src/training/metrics/pythonText.ts';
import {meanRouge} from '../../../../src/training/metrics/rouge.ts';

interface Group {
  pairs: {
    prediction: string;
    reference: string;
    words: [string[], string[]];
    scores: LlamaFactoryScores;
  }[];
  llamaFactory: LlamaFactoryScores;
  standard: Record<'rouge1' | 'rouge2' | 'rougeL' | 'rougeLsum' | 'bleu', number>;
}

const golden: {groups: Record<string, Group>} = JSON.parse(
  readFileSync(join(__dirname, 'fixtures/scores.json'), 'utf8'),
);
const groups = Object.entries(golden.groups);
const textsOf = ({pairs}: Group): [string[], string[]] => [
  pairs.map(({prediction}) => prediction),
  pairs.map(({reference}) => reference),
];

describe.each(groups)('%s texts', (_, group) => {
  const [predictions, references] = textsOf(group);

  test('are split into the words of jieba', async () => {
    const cut = await jiebaWords([...predictions, ...references]);
    for (const {prediction, reference, words} of group.pairs) {
      expect([cut(prediction), cut(reference)]).toEqual(words);
    }
  });

  test('get the scores of NLTK and rouge_chinese, each rounded to 4 places', async () => {
    const cut = await jiebaWords([...predictions, ...references]);
    for (const {prediction, reference, scores} of group.pairs) {
      const {rouge1, rouge2, rougeL} = jiebaRouge(prediction, reference, cut);
      expect({
        text: prediction,
        'bleu-4': roundTo4(100 * characterBleu(prediction, reference)),
        'rouge-1': roundTo4(100 * rouge1),
        'rouge-2': roundTo4(100 * rouge2),
        'rouge-l': roundTo4(100 * rougeL),
      }).toEqual({text: prediction, ...scores});
    }
  });

  test("get LLaMA-Factory's means, and those of rouge_score and sacreBLEU", async () => {
    const close = (scores: Record<string, number>) =>
      Object.fromEntries(Object.entries(scores).map(([name, value]) => [name, expect.closeTo(value, 8)]));
    expect(await llamaFactoryScores(predictions, references)).toEqual(close({...group.llamaFactory}));
    const standard = {
      ...meanRouge(predictions, references),
      bleu: corpusBleu(predictions, references).score,
    };
    expect(standard).toEqual(close(group.standard));
  });
});

test('the dictionary changes nothing for texts without Chinese characters', async () => {
  const texts = groups.flatMap(([, {pairs}]) =>
    pairs.flatMap(({prediction, reference}) => [prediction, reference]),
  );
  const western = texts.filter((text) => !/[\u4E00-\u9FD5]/.test(text));
  expect(western.length).toBeGreaterThan(60);
  const [without, withDictionary] = [await jiebaWords(western), await jiebaWords(texts)];
  for (const text of western) expect(without(text)).toEqual(withDictionary(text));
});

test('rounds as Python does', () => {
  // round(x, 4): exact ties go to the even neighbour.
  expect([0.03125, 0.09375, 0.15625, 3.03125, 12.34565, 19.99995].map(roundTo4)).toEqual([
    0.0312, 0.0938, 0.1562, 3.0312, 12.3456, 19.9999,
  ]);
});

test('refuses texts without references', async () => {
  await expect(llamaFactoryScores(['a'], [])).rejects.toThrow('got 0 for 1');
});

test('Chinese text without the dictionary throws an error that says what to install', async () => {
  jest.resetModules();
  jest.doMock('@node-rs/jieba', () => {
    throw new Error("Cannot find module '@node-rs/jieba'");
  });
  try {
    const {llamaFactoryScores: scores} = await import(
      '../../../../src/training/metrics/llamaFactoryScores.ts'
    );
    await expect(scores(['我们'], ['你们'])).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('npm install @node-rs/jieba'),
    });
    expect((await scores(['one two'], ['one two']))['rouge-1']).toBeCloseTo(100, 4);
  } finally {
    jest.dontMock('@node-rs/jieba');
  }
});
