import {readFileSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {executeNotebook, faults, runner} from './executeNotebook.ts';

/**
 * Executes a notebook and puts the outputs into its file: `npm run notebook`, after the library, the quickstart's model or
 * the notebook changed. A run with a fault leaves the file as it is.
 */
const [path] = process.argv.slice(2);
if (runner !== 'jupyter')
  throw new Error('Jupyter is needed: apt-get install jupyter-nbconvert jupyter-client');
const executed = executeNotebook(JSON.parse(readFileSync(path, 'utf8')), dirname(path));
const found = faults(executed);
if (found.length > 0) throw new Error(`${path} is left as it was:\n${JSON.stringify(found, null, 1)}`);
for (const cell of executed.cells) cell.metadata = {}; // when a cell ran is nobody's business a day later
writeFileSync(path, `${JSON.stringify(executed, null, 1)}\n`);
