import {readFileSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {type Cell, displayed, executeNotebook, type Notebook, printed, runner} from './executeNotebook.ts';

/*
 * docs/notebooks/first-finetune.ipynb, executed as a reader would. The notebook uses the built package: run this by
 * `npm run test:notebook`, which builds it, and installs Jupyter where it is missing and may be installed.
 */

const folder = join(__dirname, '../../docs/notebooks');
const path = join(folder, 'first-finetune.ipynb');
const source: Notebook = JSON.parse(readFileSync(path, 'utf8'));
const codeOf = ({cells}: Notebook): Cell[] => cells.filter(({cell_type}) => cell_type === 'code');
const sourceOf = (cell: Cell): string => [cell.source].flat().join('');

// Written past jest, which would fold it away: a run without Jupyter must be seen as one.
process.stderr.write(
  runner === 'jupyter'
    ? '\nThe notebook is executed by Jupyter, with tslab as its kernel.\n'
    : '\n*** NO JUPYTER HERE: the notebook is executed by tslab alone. Install jupyter-nbconvert to test the whole. ***\n',
);

/** No cell failed or warned, and the last one was reached: cells after a failed one are skipped. */
function expectClean(notebook: Notebook): void {
  const cells = codeOf(notebook);
  const complaints = cells.map((cell) => ({cell: sourceOf(cell), stderr: printed(cell, 'stderr')}));
  expect(complaints.filter(({stderr}) => stderr !== '')).toEqual([]);
  expect(
    cells.flatMap(({outputs = []}) => outputs.filter((output) => output.output_type === 'error')),
  ).toEqual([]);
  expect(printed(cells.at(-1) as Cell)).not.toBe('');
}

/** The numbers of `<name> <from> → <to>`. */
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

test('as committed, it carries the outputs of a whole run, and is small', () => {
  expectClean(source);
  expectLearned(source);
  expect(statSync(path).size).toBeLessThan(200_000);
});

describe('executed from the first cell to the last', () => {
  let executed: Notebook;

  beforeAll(() => {
    executed = executeNotebook(source, folder);
  }, 900_000);

  test('no cell fails or warns', () => {
    expectClean(executed);
  });

  test('the model learns, and shows it', () => {
    expectLearned(executed);
  });

  test('an adapter that is saved and loaded writes the same summary', () => {
    expect(codeOf(executed).map((cell) => printed(cell))).toContainEqual(
      expect.stringContaining('the reloaded adapter writes the same summary'),
    );
  });

  test('the last cell leaves no tensor', () => {
    expect(printed(codeOf(executed).at(-1) as Cell)).toBe('0 tensors left\n');
  });
});

describe('executed again in the same kernel', () => {
  const once = codeOf(source);
  // Each cell twice in a row, as someone who tries things; then all of them once more, from the top.
  const order = [...once.flatMap((_, index) => [index, index]), ...once.keys()];
  const counts: number[][] = once.map(() => []);

  beforeAll(() => {
    const cells = order.flatMap((index) => [
      code(sourceOf(once[index]).replace('[240, 32]', '[8, 4]')),
      code('console.log(tf.memory().numTensors)'),
    ]);
    expect(cells.filter((cell) => sourceOf(cell).includes('[8, 4]'))).toHaveLength(3);
    const executed = executeNotebook({...source, cells}, folder);
    expectClean(executed);
    for (const [position, index] of order.entries()) {
      counts[index].push(Number(printed(executed.cells[2 * position + 1])));
    }
  }, 900_000);

  test('no cell leaves a tensor more than the first time', () => {
    expect(Math.max(...counts.map(([first]) => first))).toBeGreaterThan(100); // the model and the optimizer's state
    expect(counts).toEqual(counts.map(([first]) => [first, first, first]));
  });

  function code(text: string): Cell {
    return {cell_type: 'code', metadata: {}, source: text, execution_count: null, outputs: []};
  }
});
