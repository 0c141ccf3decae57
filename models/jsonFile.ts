import {readFile} from 'node:fs/promises';
import {resolve} from 'node:path';
import {TfjsLoraError} from '../quant/errors.ts';

/**
 * Reads a JSON object from a file.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND`, or `CORRUPT_FILE` when it is not a JSON object
 */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${resolve(path)}: expected a readable file, got ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${resolve(path)}: expected JSON, got: ${(cause as Error).message}`,
      {cause},
    );
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json))
    return json as Record<string, unknown>;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${resolve(path)}: expected a JSON object, got ${Array.isArray(json) ? 'a list' : json}`,
  );
}

/** Like {@link readJson}, but undefined when there is no such file. */
export async function readJsonIfPresent(path: string): Promise<Record<string, unknown> | undefined> {
  try {
    return await readJson(path);
  } catch (error) {
    const cause = (error as Error).cause as NodeJS.ErrnoException | undefined;
    if (cause?.code === 'ENOENT') return undefined;
    throw error;
  }
}
