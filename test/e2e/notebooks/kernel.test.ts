import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {code} from './describeNotebook.ts';
import {executeNotebook, faults, printed} from './executeNotebook.ts';

const notebook = {
  metadata: {kernelspec: {name: 'tslab', display_name: 'TypeScript', language: 'typescript'}},
  nbformat: 4,
  nbformat_minor: 5,
};

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
    const executed = executeNotebook({...notebook, cells}, scratch);
    expect(faults(executed)).toEqual([]);
    expect(printed(executed.cells[1])).toBe('2\n');
  } finally {
    rmSync(scratch, {recursive: true, force: true});
  }
}, 60_000);
