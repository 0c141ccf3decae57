import {readFileSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {
  type Cell,
  codeOf,
  displayed,
  displayedTypes,
  executeNotebook,
  faults,
  type Notebook,
  printed,
  runner,
  sourceOf,
} from './executeNotebook.ts';

const folder = join(__dirname, '../../../docs/notebooks');

/** A notebook with its outputs, as texts. */
export interface Outputs {
  /** Everything that was printed. */
  text: string;
  /** Everything that was displayed as HTML. */
  html: string;
}

/**
 * Executes a notebook as a reader would, and declares the tests that every notebook must pass. It uses the built
 * package, so run this with `npm run test:notebook`, which builds it, and installs Jupyter if it is missing and can be
 * installed. Copies are executed; only `npm run notebook` changes the committed outputs.
 *
 * Then every cell runs twice in a row, as when a reader tries things, on little data and in the same kernel.
 *
 * @param little replaces the sizes in the sources: of data, of steps
 * @param check gets the outputs: those that are committed, and those of the execution
 */
export function describeNotebook(
  name: string,
  little: (source: string) => string,
  check: (outputs: Outputs, from: 'committed' | 'executed') => void,
): {outputsOf(from: 'committed' | 'executed'): Outputs} {
  const path = join(folder, `${name}.ipynb`);
  const source: Notebook = JSON.parse(readFileSync(path, 'utf8'));
  const sources = codeOf(source).map(sourceOf);
  const notebooks = {committed: source} as Record<'committed' | 'executed', Notebook>;
  const counts: number[][] = sources.map(() => []);
  let again: Notebook;
  // Written to the terminal directly, because jest would hide it, and a run without Jupyter must be noticed.
  process.stderr.write(
    runner === 'jupyter'
      ? `\n${name} is executed by Jupyter, with tslab as its kernel.\n`
      : `\n*** NO JUPYTER HERE: ${name} is executed by tslab alone. Install jupyter-nbconvert to test the whole. ***\n`,
  );

  beforeAll(() => {
    const countTensors = code('console.log(tf.memory().numTensors)');
    const order = [...sources.keys(), ...sources.flatMap((_, index) => [index, index])];
    const texts = order.map((index, i) => (i < sources.length ? sources[index] : little(sources[index])));
    const run = executeNotebook(
      {...source, cells: texts.flatMap((text) => [code(text), countTensors])},
      folder,
    );
    const cells = run.cells.filter((_, i) => i % 2 === 0);
    for (const [i, index] of order.entries()) counts[index].push(Number(printed(run.cells[2 * i + 1])));
    notebooks.executed = {...source, cells: cells.slice(0, sources.length)};
    again = {...source, cells: cells.slice(sources.length)};
  }, 900_000);

  test('as committed, it has the outputs of a complete run without times, and is small', () => {
    expect(faults(source)).toEqual([]);
    check(outputsOf('committed'), 'committed');
    expect(source.cells.map(({metadata}) => metadata)).toEqual(source.cells.map(() => ({})));
    expect(statSync(path).size).toBeLessThan(200_000);
  });

  test('no cell fails or warns', () => {
    expect(faults(notebooks.executed)).toEqual([]);
  });

  test('its outputs are those that the text speaks of', () => {
    check(outputsOf('executed'), 'executed');
  });

  test('every cell shows the kinds of output that are committed', () => {
    const kinds = (notebook: Notebook) => codeOf(notebook).map((cell) => displayedTypes(cell));
    expect(kinds(notebooks.executed)).toEqual(kinds(source));
  });

  test('the last cell leaves no tensors', () => {
    expect(printed(codeOf(notebooks.executed).at(-1) as Cell)).toBe('0 tensors left\n');
  });

  test('cells that run again fail at nothing and leave no more tensors than the first time', () => {
    expect(sources.some((text) => little(text) !== text)).toBe(true);
    expect(faults(again)).toEqual([]);
    expect(counts).toEqual(counts.map(([first]) => [first, first, first]));
  });

  function outputsOf(from: 'committed' | 'executed'): Outputs {
    const cells = codeOf(notebooks[from]);
    return {
      text: cells.map((cell) => printed(cell)).join(''),
      html: cells.flatMap((cell) => displayed(cell, 'text/html')).join('\n'),
    };
  }
  return {outputsOf};
}

/** Makes training and held-out data small. */
export const fewBills = (source: string): string =>
  source.replace(/(\[trainingBills, heldOutBills\] = )\[\d+, \d+\]/, '$1[8, 4]');

export function code(text: string): Cell {
  return {cell_type: 'code', metadata: {}, source: text, execution_count: null, outputs: []};
}

/** Returns the numbers of a table's row, which begins with such a text. */
export function rowOf(html: string, label: string): number[] {
  const row =
    html.split('<tr>').find((text) => text.startsWith(`<td style="text-align: left">${label}</td>`)) ?? '';
  return [...row.matchAll(/text-align: right">([^<]*)</g)].map(([, cell]) =>
    Number(cell.replaceAll(',', '')),
  );
}
