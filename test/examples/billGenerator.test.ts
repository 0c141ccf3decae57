import {createHash} from 'node:crypto';
import {
  type Bill,
  BillGenerator,
  billRecords,
  combinationOf,
  INSTRUCTION,
  type Split,
} from '../../examples/quickstart/billGenerator.ts';
import {NAME_BEGINNINGS, NAME_ENDINGS} from '../../examples/quickstart/billPhrases.ts';
import {PretrainingDocuments} from '../../examples/quickstart/pretrainingDocuments.ts';
import {meanRouge} from '../../src/training/metrics/rouge.ts';

const take = (split: Split, count: number): Bill[] => new BillGenerator(split).take(count);
const namesIn = (text: string): Set<string> =>
  new Set(
    text.match(new RegExp(`\\b(?:${NAME_BEGINNINGS.join('|')})(?:${NAME_ENDINGS.join('|')})\\b`, 'g')) ?? [],
  );
const union = (sets: Iterable<Set<string>>): Set<string> => new Set([...sets].flatMap((set) => [...set]));

test('the same seed gives the same bills, on every machine', () => {
  const digest = (split: Split): string =>
    createHash('sha256')
      .update(JSON.stringify(billRecords(split, 200)))
      .digest('hex')
      .slice(0, 16);
  expect({train: digest('train'), heldOut: digest('heldOut')}).toEqual({
    train: '59d4e0000c7e9fd6',
    heldOut: '400875a114b3533a',
  });
  expect(billRecords('train', 5, 1)).not.toEqual(billRecords('train', 5));
});

test('records are as LLaMA-Factory reads them', () => {
  for (const {instruction, input, output} of billRecords('train', 50)) {
    expect(instruction).toBe(INSTRUCTION);
    expect(input).toMatch(/^(H\.R\.|S\.) \d+\nSEC\. 1\. [A-Z ]+\. /);
    expect(output).toMatch(/ Act - [A-Z].*\.$/);
  }
});

test('held-out bills use combinations, and partly names, of their own', () => {
  const [train, heldOut] = [take('train', 1500), take('heldOut', 300)];
  const combinations = new Set(train.map(({action}) => combinationOf(action).join('|')));
  expect(heldOut.filter(({action}) => combinations.has(combinationOf(action).join('|')))).toEqual([]);

  const documents = new PretrainingDocuments(3);
  const read = Array.from({length: 1500}, (_, index) =>
    index % 3 === 0 ? documents.journal() : documents.next(),
  );
  const known = union([
    ...train.map(({text}) => namesIn(text)),
    ...read.map(({context, continuation}) => namesIn(context + continuation)),
  ]);
  const withNewName = heldOut.filter(({text}) => [...namesIn(text)].some((name) => !known.has(name)));
  expect(known.size).toBeGreaterThan(500);
  expect(withNewName.length / heldOut.length).toBeGreaterThan(0.4);
  expect(withNewName.length / heldOut.length).toBeLessThan(1);
});

test('a summary holds only facts of its bill', () => {
  for (const {text, summary} of take('heldOut', 300)) {
    const facts = summary.match(/\$?\d[\d,]*|(?<=[a-z,] )[A-Z]\w+/g) ?? [];
    const reworded = /^(Department|Expires|Caps|Limits|Authorizes)$/;
    for (const fact of facts.filter((word) => !reworded.test(word)))
      expect(text).toContain(fact.replace(/,$/, ''));
  }
});

test('no rule of position finds the summary', () => {
  const bills = take('heldOut', 300);
  const references = bills.map(({summary}) => summary);
  const bodies = bills.map(({text}) =>
    text
      .split('\n')
      .slice(1)
      .map((line) => line.replace(/^SEC\. \d+\. [A-Z ]+\. /, '')),
  );
  const rules: Record<string, string[]> = {
    'the whole bill': bodies.map((lines) => lines.join(' ')),
    'the beginning': bodies.map((lines) => lines.join(' ').split(' ').slice(0, 30).join(' ')),
    'the end': bodies.map((lines) => lines.join(' ').split(' ').slice(-30).join(' ')),
  };
  for (let section = 0; section < 5; section++) {
    rules[`section ${section + 1}`] = bodies.map((lines) => lines[section] ?? '');
  }
  for (const [rule, guesses] of Object.entries(rules)) {
    const {rougeL} = meanRouge(guesses, references);
    expect([rule, rougeL < 42 ? 'fails' : rougeL]).toEqual([rule, 'fails']);
  }
  // The section with the action stands anywhere.
  const places = new Set(
    bills.flatMap(({text}) =>
      text.split('\n').flatMap((line, index) => (/make grants|program of grants/.test(line) ? [index] : [])),
    ),
  );
  expect(places.size).toBeGreaterThanOrEqual(5);
});

test('pre-training shows no summary and no instruction', () => {
  const documents = new PretrainingDocuments(5);
  for (let index = 0; index < 400; index++) {
    const {context, continuation} = documents.next();
    expect(context + continuation).not.toContain(INSTRUCTION);
    expect(continuation).not.toMatch(/ Act - (Directs|Allows|Names|Creates|Requires|Bars|Changes|Sets up)/);
  }
});

test('continuations of the journal repeat what came before', () => {
  const documents = new PretrainingDocuments(6);
  for (let index = 0; index < 50; index++) {
    const {context, continuation} = documents.journal();
    const entries = (text: string): string[] =>
      text
        .replace(/<[^>]+>/g, '')
        .trim()
        .replace(/^.*READING\. |\.$/gs, '')
        .split('; ')
        .sort();
    expect(entries(continuation)).toEqual(entries(context));
  }
});
