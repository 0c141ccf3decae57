import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

/** A folder for the tests of a file, removed after them; the result names paths in it. */
export function temporaryFolder(): (name: string) => string {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-test-'));
  });
  afterAll(() => rmSync(folder, {recursive: true, force: true}));
  return (name) => join(folder, name);
}
