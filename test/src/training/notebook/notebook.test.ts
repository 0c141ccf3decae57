import {inspect} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {AdamW, Llama, type StepLog, TrainingHistory} from '../../../../src/index.ts';
import {
  notebookProgress,
  type RichOutput,
  showLoss,
  showSamples,
  showSummary,
  showTable,
  showTokens,
} from '../../../../src/training/notebook/index.ts';
import {tinyConfig} from '../../../models/tinyLlama.ts';
import {stepLog} from '../stepLog.ts';

const HOSTILE = '<img src=x onerror="alert(1)"> & \'$5 to $6\'';
const ESCAPED = '&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp; &#39;$5 to $6&#39;';

/** Reads the text of HTML, for simple HTML. */
const shownText = (html: string): string =>
  html
    .replace(/<[^>]*>/g, '')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&');

/** What a kernel of tslab makes global, with the outputs that it has displayed, by the place of their display. */
function startKernel() {
  const places: {mimeType: string; content: string}[][] = [];
  const newDisplay = () => {
    const place: (typeof places)[0] = [];
    places.push(place);
    return {raw: (mimeType: string, content: string) => void place.push({mimeType, content})};
  };
  const tslab = {
    newDisplay,
    display: {raw: (type: string, content: string) => newDisplay().raw(type, content)},
  };
  const require = (name: string) => {
    if (name !== 'tslab') throw new Error(`Cannot find module ${name}`);
    return tslab;
  };
  Object.assign(globalThis, {__tslab__: {require}});
  return places;
}
afterEach(() => Reflect.deleteProperty(globalThis, '__tslab__'));

const log = (step: number, seconds: number, more: Partial<StepLog> = {}): StepLog =>
  stepLog(step, seconds, {secondsLeft: 4 - step, ...more});

describe('outside of a notebook', () => {
  test('an output is returned, for Deno and for console.log', () => {
    const output = showTable([{name: 'x'}]) as RichOutput;
    const bundle = (output as unknown as Record<symbol, () => unknown>)[Symbol.for('Jupyter.display')]();
    expect(bundle).toEqual({'text/html': output.content, 'text/plain': 'name\nx'});
    expect(inspect(output)).toBe('name\nx');
  });

  test('progress without a function that draws is refused', () => {
    expect(() => notebookProgress()).toThrow('notebookProgress: expected a tslab notebook');
  });

  test('a global of the same name that is no kernel is ignored', () => {
    Object.assign(globalThis, {
      __tslab__: {
        require: () => {
          throw new Error('no tslab');
        },
      },
    });
    expect(showTable([{a: 1}])).toBeDefined();
  });
});

describe('in a notebook', () => {
  test('an output is displayed, and not returned for tslab to print', async () => {
    const places = startKernel();
    expect(showTable([{a: 1}])).toBeUndefined();
    expect(await showLoss({training: [{step: 1, loss: 1}]})).toBeUndefined();
    expect(places.map(([{mimeType}]) => mimeType)).toEqual(['text/html', 'image/svg+xml']);
  });

  test('fitDataset shows its progress in one place, again in a second run, and leaves no tensors', async () => {
    const places = startKernel();
    const written = jest.spyOn(process.stderr, 'write').mockReturnValue(true);
    await tf.setBackend('cpu');
    const model = Llama.fromConfig(tinyConfig, {seed: 1});
    const optimizer = new AdamW({learningRate: 0.01});
    model.applyLoRA({rank: 2});
    model.compile({optimizer});
    const examples = [{inputIds: [1, 2, 3]}, {inputIds: [4, 5, 6]}];
    const cell = async () => {
      const history = await model.fitDataset(examples, {batchSize: 1});
      showSummary(model);
      showTokens(examples[0], {decode: (ids) => `${ids[0]} `});
      await showLoss(history);
      return tf.memory().numTensors;
    };
    const once = await cell();
    expect(await cell()).toBe(once);
    expect(written).not.toHaveBeenCalled();
    written.mockRestore();
    expect(places).toHaveLength(8);
    for (const progress of [places[0], places[4]]) {
      expect(progress.length).toBeGreaterThan(1);
      expect(shownText(progress[0].content)).toContain('0/2 starting');
      expect(shownText(progress.at(-1)?.content ?? '')).toMatch(/2\/2 loss \d/);
    }
    await model.fitDataset(examples, {verbose: 0});
    const lines: string[] = [];
    await model.fitDataset(examples, {progressStream: {write: (text) => lines.push(text)}});
    expect(lines.join('')).toContain('step 1/1 loss');
    expect(places).toHaveLength(8);
    model.dispose();
    optimizer.dispose();
    expect(tf.memory().numTensors).toBe(0);
  });
});

describe('notebookProgress', () => {
  const drawn: RichOutput[] = [];
  const progress = () => notebookProgress((output) => drawn.push(output));
  beforeEach(() => drawn.splice(0));
  const texts = () => drawn.map(({text}) => text);

  test('redraws a few times a second, and always the last step', async () => {
    const callback = progress();
    await callback.onTrainBegin?.({totalSteps: 4});
    await callback.onCompile?.(3, 40);
    await callback.onStepEnd?.(log(1, 1));
    await callback.onStepEnd?.(log(2, 1.1));
    await callback.onStepEnd?.(log(3, 2));
    await callback.onEvaluate?.(
      {loss: 1.25, perplexity: 3.5, tokens: 5, examples: 1, batches: 1, seconds: 1},
      3,
    );
    await callback.onStepEnd?.(log(4, 2.1));
    await callback.onTrainEnd?.();
    expect(texts()).toEqual([
      '0/4 starting',
      '0/4 compiling shaders 3/40',
      '1/4 loss 2.5000 lr 1.00e-4 123 tok/s 1s eta 3s 1.5 GiB',
      '3/4 loss 2.5000 lr 1.00e-4 123 tok/s 2s eta 1s 1.5 GiB',
      '3/4 loss 2.5000 lr 1.00e-4 123 tok/s 2s eta 1s 1.5 GiB val 1.2500',
      '4/4 loss 2.5000 lr 1.00e-4 123 tok/s 2s eta 0s 1.5 GiB val 1.2500',
    ]);
    for (const {content, text} of drawn) {
      expect(shownText(content).trim()).toBe(text);
      expect(content).toContain('max="4"');
    }
  });

  test('has no bar for a run of unknown length, and says where a run failed', async () => {
    const callback = progress();
    await callback.onTrainBegin?.({});
    await callback.onStepEnd?.(log(1, 1, {totalSteps: undefined, secondsLeft: undefined}));
    await callback.onTrainError?.(new Error('x'));
    expect(texts().at(-1)).toBe('1 failed after loss 2.5000 lr 1.00e-4 123 tok/s 1s 1.5 GiB');
    expect(drawn.at(-1)?.content).not.toContain('<progress');
  });
});

describe('showTable', () => {
  test('rounds numbers, aligns them, and shows what is missing', () => {
    const rows = [
      {run: 'first', loss: 0.123456, steps: 1234567},
      {run: 'second', loss: 12, flag: true},
    ];
    const {content, text} = showTable(rows, {caption: 'Two runs'}) as RichOutput;
    expect(text).toBe(
      [
        'Two runs',
        'run      loss      steps  flag',
        'first    0.12  1,234,567  –',
        'second  12.00          –  true',
      ].join('\n'),
    );
    expect(content).toContain('<th style="text-align: right">loss</th>');
    expect(content).toContain('<td style="text-align: left">true</td>');
    expect(content).toContain('<caption style="text-align: left">Two runs</caption>');
  });

  test('writes the numbers of a column in one way', () => {
    const column = (...values: number[]) =>
      (showTable(values.map((value) => ({a: value}))) as RichOutput).text.split('\n').slice(1);
    expect(column(0.978, 26.19)).toEqual([' 0.98', '26.19']);
    expect(column(3072.4, 5)).toEqual(['3,072', '    5']);
    expect(column(0.5, 1e-9, 0)).toEqual(['0.5000', '1.0e-9', '0.0000']);
    expect(column(Number.NaN, -1.5)).toEqual(['   NaN', '-1.500']);
    expect(column(Number.NaN)).toEqual(['NaN']);
    expect(column(0, 0)).toEqual(['0', '0']);
  });

  test('shows hostile names and values as text', () => {
    const {content} = showTable([{[HOSTILE]: HOSTILE}], {caption: HOSTILE}) as RichOutput;
    expect(content.split(ESCAPED)).toHaveLength(4);
    expect(content).not.toContain('<img');
    expect(content).toContain('class="tex2jax_ignore mathjax_ignore"'); // $5 to $6 is no formula
  });

  test('refuses a table without rows', () => {
    expect(() => showTable([])).toThrow('showTable rows: expected at least one row, got none');
  });
});

describe('showSamples', () => {
  test('shows texts that belong together below each other', () => {
    const texts = {prompt: ['one\ntwo', 'b', 'c'], answer: [HOSTILE, 'e', 'f']};
    const {content, text} = showSamples(texts, {count: 2}) as RichOutput;
    expect(text).toBe(`prompt  one\n        two\nanswer  ${HOSTILE}\n\nprompt  b\nanswer  e`);
    expect(content.match(/<tbody>/g)).toHaveLength(2);
    expect(content).toContain('one<br>two');
    expect(content).toContain(ESCAPED);
    expect(content).not.toContain('<img');
  });

  test('cuts long texts between characters', () => {
    const {text} = showSamples({a: ['ab😀cd']}, {maxCharacters: 2}) as RichOutput;
    expect(text).toBe('a  ab…');
    expect((showSamples({a: ['ab😀cd']}, {maxCharacters: 3}) as RichOutput).text).toBe('a  ab…');
    expect((showSamples({a: ['ab😀cd']}, {maxCharacters: 4}) as RichOutput).text).toBe('a  ab😀…');
  });

  test('refuses lists of different lengths and no texts', () => {
    expect(() => showSamples({a: ['x', 'y'], b: ['z']})).toThrow(
      'showSamples b: expected 2 texts, as many as in a, got 1',
    );
    for (const empty of [{}, {a: []}] as Record<string, string[]>[])
      expect(() => showSamples(empty)).toThrow('expected at least one text');
  });
});

describe('showTokens', () => {
  const words = new Map([
    [1, 'Say'],
    [2, ' it'],
    [3, '\n'],
    [4, '<b>yes</b>'],
  ]);
  const tokenizer = {
    decode: (ids: ArrayLike<number>) => [...Array.from(ids)].map((id) => words.get(id)).join(''),
  };

  test('marks what is learned', () => {
    const example = {inputIds: [1, 2, 3, 4, 4], labels: [-100, -100, -100, 4, 4]};
    const {content, text} = showTokens(example, tokenizer) as RichOutput;
    expect(text).toBe('2 of 5 tokens are learned\nSay it\n⟦<b>yes</b><b>yes</b>⟧');
    expect(content.match(/<mark title="4"[^>]*>&lt;b&gt;yes&lt;\/b&gt;<\/mark>/g)).toHaveLength(2);
    expect(content).toMatch(/<span title="3"[^>]*>↵<br><\/span>/);
    expect(content).not.toContain('<b>');
  });

  test('never marks the first token, which nothing predicts, nor padding', () => {
    const example = {inputIds: [1, 2, 3], attentionMask: [1, 1, 0]};
    expect((showTokens(example, tokenizer) as RichOutput).text).toBe('1 of 3 tokens are learned\nSay⟦ it⟧\n');
  });

  test('shows a label that is not the token, before it', () => {
    const example = {inputIds: [1, 2], labels: [-100, 4]};
    expect((showTokens(example, tokenizer) as RichOutput).text).toContain('Say⟦<b>yes</b>⟧ it');
  });

  test('shows a character of several tokens in one piece', () => {
    const bytes = [...new TextEncoder().encode('a€!')];
    const decode = (ids: ArrayLike<number>) => new TextDecoder().decode(Uint8Array.from(ids));
    const {content, text} = showTokens({inputIds: bytes}, {decode}) as RichOutput;
    expect(text).toBe('4 of 5 tokens are learned\na⟦€!⟧');
    expect(content).toContain('title="226 130 172"');
  });

  test('says how many tokens are left out', () => {
    const {content, text} = showTokens({inputIds: [1, 2, 2, 2]}, tokenizer, {maxTokens: 2}) as RichOutput;
    expect(text).toBe('3 of 4 tokens are learned\nSay⟦ it⟧ … 2 more tokens');
    expect(content).toContain(' … 2 more tokens</pre>');
  });

  test('refuses what is no example', () => {
    expect(() => showTokens([1, 2] as never, tokenizer)).toThrow('inputIds: expected token ids');
    expect(() => showTokens({examples: []} as never, tokenizer)).toThrow('dataset.examples[0]');
    expect(() => showTable({a: 1} as never)).toThrow('got {"a":1}. Put a single row into a list.');
    expect(() => showSamples({a: 'x'} as never)).toThrow('got "x". Write {answer: [text, …]}.');
  });
});

describe('showSummary', () => {
  test('folds equal layers of the blocks, and adds up their parameters', () => {
    const model = Llama.fromConfig({...tinyConfig, numHiddenLayers: 4}, {allocate: false});
    model.applyLoRA({rank: 2, targetModules: ['q_proj'], layersToTransform: [0, 1, 3]});
    const {text} = showSummary(model) as RichOutput;
    const printed: string[] = [];
    model.summary(undefined, undefined, (line) => printed.push(line));
    const total = /Total params: (\S+)/.exec(printed.join('\n'))?.[1];
    expect(text).toContain(`: ${total} parameters, `);
    expect(text).toMatch(/^model\.layers\.0–1, 3\.self_attn\.q_proj +LoRADense /m);
    expect(text).toMatch(/^model\.layers\.2\.self_attn\.q_proj +TransposedDense /m);
    expect(text).toMatch(/^model\.layers\.0–3\.self_attn\.k_proj +TransposedDense /m);
    const rows = text.split('\n').slice(2);
    const sum = rows.map((row) => Number(row.split(/ {2,}/)[3].replaceAll(',', ''))).reduce((a, b) => a + b);
    expect(sum.toLocaleString('en-US')).toBe(total);
    model.dispose();
  });

  test('shows a Keras model as its own summary', () => {
    const model = tf.sequential({layers: [tf.layers.dense({units: 2, inputShape: [3], name: 'fc'})]});
    const {content, text} = showSummary(model) as RichOutput;
    expect(text).toContain('Total params: 8');
    expect(content).toContain('<pre>___');
    expect(content).not.toContain('\n');
    model.dispose();
  });
});

describe('showLoss', () => {
  const training = [4, 2, 1].map((loss, i) => ({step: i + 1, loss}));
  const validation = [{step: 3, loss: 1.5}];

  test('plots the history of fitDataset, or plain points', async () => {
    const history = new TrainingHistory();
    history.steps.push(...training.map(({step, loss}) => log(step, step, {loss})));
    const {mimeType, content, text} = (await showLoss(history, {title: 'A & B'})) as RichOutput;
    expect(mimeType).toBe('image/svg+xml');
    expect(content).toContain('A &amp; B');
    expect(text).toBe('loss 4.0000 at step 1, 1.0000 at step 3');
    const withPoints = (await showLoss({training, validation})) as RichOutput;
    expect(withPoints.text).toBe('loss 4.0000 at step 1, 1.0000 at step 3, validation 1.5000 at step 3');
    expect(withPoints.content).toContain('validation');
  });

  test('plots several runs together', async () => {
    const runs = [
      {label: 'rank 8', history: {training, validation}},
      {label: '<rank 16>', history: {training: training.slice(1)}},
    ];
    const {content, text} = (await showLoss(runs)) as RichOutput;
    expect(text).toBe(
      'rank 8: loss 4.0000 at step 1, 1.0000 at step 3, validation 1.5000 at step 3\n' +
        '<rank 16>: loss 2.0000 at step 2, 1.0000 at step 3',
    );
    for (const label of ['rank 8', '&lt;rank 16&gt;', 'points: validation']) expect(content).toContain(label);
  });

  test('refuses a run without a loss', async () => {
    await expect(showLoss(new TrainingHistory())).rejects.toThrow(
      'expected at least one finite training loss',
    );
    await expect(showLoss([])).rejects.toThrow('plotLosses runs: expected at least one, got none');
    const same = {label: 'a', history: {training}};
    await expect(showLoss([same, same])).rejects.toThrow('expected a label of its own, got "a" again');
    await expect(showLoss([{label: 'a', history: {training: []}}])).rejects.toThrow('plotLosses run a');
  });
});
