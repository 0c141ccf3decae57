import {readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {join} from 'node:path';

/** Version of an installed package; undefined where it is not installed. */
export async function installedVersion(name: string): Promise<string | undefined> {
  const {resolve} = createRequire(import.meta.url);
  for (const folder of resolve.paths(name) ?? []) {
    const json = await readFile(join(folder, name, 'package.json'), 'utf8').catch(() => undefined);
    if (json !== undefined) return (JSON.parse(json) as {version: string}).version;
  }
  return undefined;
}
