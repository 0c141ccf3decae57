import {readFileSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {executeNotebook, faults, runner} from './executeNotebook.ts';

/**
 * Executes a notebook and writes the outputs into its file. Run `npm run notebook` after a change of the library, of
 * the quickstart's model or of the notebook. A run with a fault leaves the file unchanged.
 */
const [path] = process.argv.slice(2);
if (runner !== 'jupyter')
  throw new Error('Jupyter is needed: apt-get install jupyter-nbconvert jupyter-client');
const executed = executeNotebook(JSON.parse(readFileSync(path, 'utf8')), dirname(path));
const found = faults(executed);
if (found.length > 0) throw new Error(`${path} is left as it was:\n${JSON.stringify(found, null, 1)}`);
for (const cell of executed.cells) cell.metadata = {}; // the times of execution
writeFileSync(path, `${JSON.stringify(executed, null, 1)}\n`);
