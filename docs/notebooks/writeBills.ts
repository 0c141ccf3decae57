import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {billRecords} from '../../examples/quickstart/billGenerator.ts';

/**
 * Writes the quickstart's bills as two JSON Lines files, for the notebooks:
 *
 *     node --import tsx writeBills.ts <folder> <training bills> <held-out bills>
 */
const [folder, trainingBills, heldOutBills] = process.argv.slice(2);
mkdirSync(folder, {recursive: true});
for (const [split, file, count] of [
  ['train', 'train.jsonl', trainingBills],
  ['heldOut', 'heldOut.jsonl', heldOutBills],
] as const) {
  const lines = billRecords(split, Number(count)).map((record) => `${JSON.stringify(record)}\n`);
  writeFileSync(join(folder, file), lines.join(''));
}
