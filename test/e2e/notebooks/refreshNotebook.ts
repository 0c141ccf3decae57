import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {executeNotebook, faults, runner} from './executeNotebook.ts';

/**
 * Executes notebooks and writes the outputs into their files. Run `npm run notebook` after a change of the library, of
 * the quickstart's model or of a notebook; `npm run notebook -- <file>` for one of them. A run with a fault leaves its
 * file unchanged.
 */
const FOLDER = 'docs/notebooks';
const all = readdirSync(FOLDER).filter((name) => name.endsWith('.ipynb'));
const paths = process.argv.length > 2 ? process.argv.slice(2) : all.map((name) => `${FOLDER}/${name}`);
if (runner !== 'jupyter')
  throw new Error('Jupyter is needed: apt-get install jupyter-nbconvert jupyter-client');
for (const path of paths) {
  const executed = executeNotebook(JSON.parse(readFileSync(path, 'utf8')), dirname(path));
  const found = faults(executed);
  if (found.length > 0) throw new Error(`${path} is left as it was:\n${JSON.stringify(found, null, 1)}`);
  for (const cell of executed.cells) cell.metadata = {}; // the times of execution
  writeFileSync(path, `${JSON.stringify(executed, null, 1)}\n`);
}
