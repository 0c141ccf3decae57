import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

/** Makes a folder for the tests of a file, which is removed after them; the result returns paths in it. */
export function temporaryFolder(): (name: string) => string {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-test-'));
  });
  afterAll(() => rmSync(folder, {recursive: true, force: true}));
  return (name) => join(folder, name);
}
