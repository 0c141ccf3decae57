import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {bleuTokens, characterBleu, corpusBleu} from '../../../../src/training/metrics/bleu.ts';

interface Golden {
  pairs: {prediction: string; reference: string; characterBleu: number}[];
  corpora: {
    pairs: number[];
    score: number;
    precisions: number[];
    brevityPenalty: number;
    predictionLength: number;
    referenceLength: number;
  }[];
}

const golden: Golden = JSON.parse(readFileSync(join(__dirname, 'fixtures/metrics.json'), 'utf8'));

test.each(golden.corpora.map((corpus, index) => [index, corpus] as const))(
  'corpus %i equals sacreBLEU',
  (_, corpus) => {
    const {pairs, precisions, ...expected} = corpus;
    const result = corpusBleu(
      pairs.map((index) => golden.pairs[index].prediction),
      pairs.map((index) => golden.pairs[index].reference),
    );
    expect(result.score).toBeCloseTo(expected.score, 8);
    expect(result.brevityPenalty).toBeCloseTo(expected.brevityPenalty, 10);
    expect([result.predictionLength, result.referenceLength]).toEqual([
      expected.predictionLength,
      expected.referenceLength,
    ]);
    precisions.forEach((precision, n) => {
      expect(result.precisions[n]).toBeCloseTo(precision, 8);
    });
  },
);

test('character BLEU equals NLTK with smoothing method 3', () => {
  for (const {prediction, reference, characterBleu: expected} of golden.pairs) {
    expect([prediction, characterBleu(prediction, reference)]).toEqual([
      prediction,
      expect.closeTo(expected, 9),
    ]);
  }
});

test('splits words as mteval-v13a does', () => {
  expect(bleuTokens('It costs $1,000.50, or 3-4 x.y; "quoted" e-mail.')).toEqual(
    'It costs $ 1,000.50 , or 3 - 4 x . y ; " quoted " e-mail .'.split(' '),
  );
});

test('refuses texts without references', () => {
  expect(() => corpusBleu(['a', 'b'], ['a'])).toThrow('got 1 for 2');
});
