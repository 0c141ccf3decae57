import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {porterStem} from '../../../../src/training/metrics/porterStemmer.ts';
import {meanRouge, type RougeScores, rouge} from '../../../../src/training/metrics/rouge.ts';

interface Golden {
  pairs: {prediction: string; reference: string; plain: Triples; stemmed: Triples}[];
  stems: string;
}
type Triples = Record<keyof RougeScores, [precision: number, recall: number, fmeasure: number]>;

const golden: Golden = JSON.parse(readFileSync(join(__dirname, 'fixtures/metrics.json'), 'utf8'));

test('stems as NLTK does', () => {
  const expected = golden.stems.split(' ').map((pair) => pair.split(':'));
  expect(expected.length).toBeGreaterThan(800);
  expect(expected.map(([word]) => [word, porterStem(word)])).toEqual(expected);
});

test.each([
  ['plain', false],
  ['stemmed', true],
] as const)('ROUGE equals rouge_score, %s', (key, useStemmer) => {
  for (const {prediction, reference, ...scores} of golden.pairs) {
    const ours = rouge(prediction, reference, {useStemmer});
    for (const [name, [precision, recall, fmeasure]] of Object.entries(scores[key])) {
      const got = ours[name as keyof RougeScores];
      const text = `${name} of ${JSON.stringify(prediction)}`;
      expect([text, got.precision, got.recall, got.fmeasure]).toEqual([
        text,
        expect.closeTo(precision, 9),
        expect.closeTo(recall, 9),
        expect.closeTo(fmeasure, 9),
      ]);
    }
  }
});

test('means are those of the F-measures, times 100', () => {
  const pairs = golden.pairs.slice(0, 20);
  const means = meanRouge(
    pairs.map(({prediction}) => prediction),
    pairs.map(({reference}) => reference),
  );
  const expected = pairs.reduce((sum, {stemmed}) => sum + stemmed.rougeL[2], 0) / pairs.length;
  expect(means.rougeL).toBeCloseTo(100 * expected, 8);
});

test('refuses texts without references', () => {
  expect(() => meanRouge(['a'], [])).toThrow('meanRouge references: expected one for each prediction');
  expect(() => meanRouge([], [])).toThrow('at least one');
});

test('swapping the texts swaps precision and recall', () => {
  const text = fc
    .array(fc.constantFrom('bill', 'bills', 'act', 'the', 'of', '.', '\n'))
    .map((words) => words.join(' '));
  fc.assert(
    fc.property(text, text, (a, b) => {
      const [there, back] = [rouge(a, b), rouge(b, a)];
      for (const name of ['rouge1', 'rouge2', 'rougeL'] as const) {
        expect(there[name].precision).toBeCloseTo(back[name].recall, 12);
        expect(there[name].fmeasure).toBeCloseTo(back[name].fmeasure, 12);
      }
    }),
  );
});
