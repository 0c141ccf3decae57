import {mkdtempSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {
  type Cell,
  codeOf,
  displayed,
  executeNotebook,
  faults,
  type Notebook,
  printed,
  runner,
  sourceOf,
} from './executeNotebook.ts';

/*
 * Executes docs/notebooks/first-finetune.ipynb as a reader would. The notebook uses the built package, so run this with
 * `npm run test:notebook`, which builds it, and installs Jupyter if it is missing and can be installed. Copies are
 * executed; only `npm run notebook` changes the committed outputs.
 */

const folder = join(__dirname, '../../docs/notebooks');
const path = join(folder, 'first-finetune.ipynb');
const source: Notebook = JSON.parse(readFileSync(path, 'utf8'));

// Written to the terminal directly, because jest would hide it, and a run without Jupyter must be noticed.
process.stderr.write(
  runner === 'jupyter'
    ? '\nThe notebook is executed by Jupyter, with tslab as its kernel.\n'
    : '\n*** NO JUPYTER HERE: the notebook is executed by tslab alone. Install jupyter-nbconvert to test the whole. ***\n',
);

/** Returns the numbers of `<name> <from> → <to>`. */
function change(notebook: Notebook, name: string): [from: number, to: number] {
  const text = codeOf(notebook)
    .map((cell) => printed(cell))
    .join('\n');
  const [, from, to] = new RegExp(`^${name} ([\\d.]+) → ([\\d.]+)$`, 'm').exec(text) ?? [];
  return [Number(from), Number(to)];
}

function expectLearned(notebook: Notebook): void {
  const [lossBefore, lossAfter] = change(notebook, 'held-out loss');
  expect(lossAfter).toBeLessThan(lossBefore / 2);
  const [rougeBefore, rougeAfter] = change(notebook, 'rougeL');
  expect(rougeAfter).toBeGreaterThan(rougeBefore + 10);
  const types = codeOf(notebook).flatMap(displayed);
  expect(types).toEqual(expect.arrayContaining(['image/svg+xml', 'image/png', 'text/markdown']));
}

test('as committed, it has the outputs of a complete run without times, and is small', () => {
  expect(faults(source)).toEqual([]);
  expectLearned(source);
  expect(source.cells.map(({metadata}) => metadata)).toEqual(source.cells.map(() => ({})));
  expect(statSync(path).size).toBeLessThan(200_000);
});

describe('executed from the first cell to the last', () => {
  let executed: Notebook;

  beforeAll(() => {
    executed = executeNotebook(source, folder);
  }, 900_000);

  test('no cell fails or warns', () => {
    expect(faults(executed)).toEqual([]);
  });

  test('the committed outputs are those of the present model', () => {
    expect(change(source, 'held-out loss')[0]).toBeCloseTo(change(executed, 'held-out loss')[0], 2);
    expect(printed(codeOf(source)[2])).toBe(printed(codeOf(executed)[2])); // summary()
  });

  test('the model learns, and shows it', () => {
    expectLearned(executed);
  });

  test('a saved and reloaded adapter writes the same summary', () => {
    expect(codeOf(executed).map((cell) => printed(cell))).toContainEqual(
      expect.stringContaining('the reloaded adapter writes the same summary'),
    );
  });

  test('the last cell leaves no tensors', () => {
    expect(printed(codeOf(executed).at(-1) as Cell)).toBe('0 tensors left\n');
  });
});

describe('executed again in the same kernel', () => {
  const once = codeOf(source);
  // Each cell runs twice in a row, as when a reader tries things; then all of them run again from the top.
  const order = [...once.flatMap((_, index) => [index, index]), ...once.keys()];
  const counts: number[][] = once.map(() => []);

  beforeAll(() => {
    const cells = order.flatMap((index) => [
      code(sourceOf(once[index]).replace('[240, 32]', '[8, 4]')),
      code('console.log(tf.memory().numTensors)'),
    ]);
    expect(cells.filter((cell) => sourceOf(cell).includes('[8, 4]'))).toHaveLength(3);
    const executed = executeNotebook({...source, cells}, folder);
    expect(faults(executed)).toEqual([]);
    for (const [position, index] of order.entries()) {
      counts[index].push(Number(printed(executed.cells[2 * position + 1])));
    }
  }, 900_000);

  test('no cell leaves more tensors than the first time', () => {
    expect(Math.max(...counts.map(([first]) => first))).toBeGreaterThan(100); // the model and the optimizer's state
    expect(counts).toEqual(counts.map(([first]) => [first, first, first]));
  });
});

test('a cell keeps running when files change', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'tfjs-lora-notebook-'));
  try {
    for (const name of ['one', 'two'])
      writeFileSync(join(scratch, `${name}.ts`), `export const ${name} = 1;\n`);
    const cells = [
      code("import {one} from './one';\nimport {two} from './two';\nimport {appendFileSync} from 'node:fs';"),
      code(
        "for (const name of ['one', 'two', 'one', 'two']) {\n" +
          "  appendFileSync(name + '.ts', '// changed\\n');\n" +
          '  await new Promise((resolve) => setTimeout(resolve, 200));\n' +
          '}\nconsole.log(one + two);',
      ),
    ];
    const executed = executeNotebook({...source, cells}, scratch);
    expect(faults(executed)).toEqual([]);
    expect(printed(executed.cells[1])).toBe('2\n');
  } finally {
    rmSync(scratch, {recursive: true, force: true});
  }
}, 60_000);

function code(text: string): Cell {
  return {cell_type: 'code', metadata: {}, source: text, execution_count: null, outputs: []};
}
