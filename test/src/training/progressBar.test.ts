import {progressBar} from '../../../src/index.ts';
import {printAboveProgress, tokenizingLines} from '../../../src/training/callbacks/progressBar.ts';
import {stepLog} from './stepLog.ts';

test('writes occasional lines when nothing can be redrawn, and always the last', async () => {
  const lines: string[] = [];
  const bar = progressBar({write: (text) => lines.push(text)});
  await bar.onTrainBegin?.({totalSteps: 4});
  for (const compiled of [0, 1, 2]) await bar.onCompile?.(compiled, 2);
  await bar.onStepEnd?.(stepLog(1, 1));
  await bar.onStepEnd?.(stepLog(2, 2));
  await bar.onStepEnd?.(stepLog(3, 90));
  await bar.onStepEnd?.(stepLog(4, 91));
  await bar.onEvaluate?.({loss: 1, perplexity: Math.E, tokens: 5, examples: 1, batches: 1, seconds: 1}, 4);
  await bar.onTrainEnd?.();
  expect(lines).toEqual([
    'compiling shaders 0/2\n',
    'compiling shaders 2/2\n',
    'step 1/4 loss 2.5000 lr 1.00e-4 123 tok/s 1s eta 3s 1.5 GiB\n',
    'step 3/4 loss 2.5000 lr 1.00e-4 123 tok/s 1m30s eta 30s 1.5 GiB\n',
    'step 4/4 loss 2.5000 lr 1.00e-4 123 tok/s 1m31s eta 0s 1.5 GiB\n',
    'step 4 validation loss 1.0000 perplexity 2.72\n',
  ]);
});

test('leaves out unknown values', async () => {
  const lines: string[] = [];
  const bar = progressBar({write: (text) => lines.push(text)});
  await bar.onStepEnd?.(
    stepLog(1, 7500, {
      totalSteps: undefined,
      secondsLeft: undefined,
      learningRate: Number.NaN,
      memoryBytes: 900,
    }),
  );
  expect(lines).toEqual(['step 1 loss 2.5000 123 tok/s 2h05m 900 B\n']);
});

/** Imitates the part of a terminal that the bar needs, and remembers what was written. */
function terminal() {
  let text = '';
  const done = () => true;
  const stream = {
    isTTY: true,
    columns: 120,
    rows: 20,
    write: (more: string) => {
      text += more;
      return true;
    },
    on: () => stream,
    once: () => stream,
    removeListener: () => stream,
    cursorTo: done,
    moveCursor: done,
    clearLine: done,
    clearScreenDown: done,
  };
  return {stream, text: () => text};
}

test('a line above the bar takes its place, and the bar continues below', async () => {
  const {stream, text} = terminal();
  const bar = progressBar(stream);
  await bar.onTrainBegin?.({totalSteps: 4});
  await bar.onStepEnd?.(stepLog(2, 2));
  const before = text().length;
  printAboveProgress(stream, 'stopping');
  const after = text().slice(before);
  expect(after.startsWith('\r\x1b[Kstopping\n\x1b7')).toBe(true); // the bar ends where the cursor was saved last
  expect(after).toContain('2/4 loss 2.5000');
  await bar.onTrainEnd?.();
  const ended = text();
  printAboveProgress(stream, 'done');
  expect(text()).toBe(`${ended}\r\x1b[Kdone\n`);
});

test('a line is written unchanged when nothing is redrawn', () => {
  const lines: string[] = [];
  printAboveProgress({write: (text) => lines.push(text)}, 'stopping');
  expect(lines).toEqual(['stopping\n']);
});

test.each(['onTrainEnd', 'onTrainError'] as const)('draws a bar on a terminal until %s', async (end) => {
  const {stream, text} = terminal();
  const bar = progressBar(stream);
  await bar.onTrainBegin?.({totalSteps: 4});
  await bar.onCompile?.(1, 2);
  await bar.onStepEnd?.(stepLog(2, 2));
  await bar.onEvaluate?.({loss: 1.5, perplexity: 4.5, tokens: 5, examples: 1, batches: 1, seconds: 1}, 2);
  await bar[end]?.(new Error('broken off') as never);
  expect(text()).toContain('2/4 loss 2.5000 lr 1.00e-4 123 tok/s 2s eta 2s 1.5 GiB val 1.5000');
  const drawn = text();
  await bar[end]?.(new Error('again') as never);
  expect(text()).toBe(drawn); // nothing is drawn any more
});

test('says every ten thousand records how many have become token ids', () => {
  let shown = '';
  const report = tokenizingLines({write: (text) => (shown += text)});
  for (let done = 0; done <= 20_000; done += 50) report({done, total: 25_000});
  expect(shown).toBe('tokenizing records 10000/25000\ntokenizing records 20000/25000\n');
});
