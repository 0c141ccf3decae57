import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {memoryTables} from '../../docs/writeMemoryTables.ts';

const root = join(__dirname, '../..');

test('the tables of memory and parameters match the output of npm run memory-tables', async () => {
  for (const [file, text] of Object.entries(await memoryTables(root))) {
    expect(readFileSync(join(root, file), 'utf8')).toBe(text);
  }
});
