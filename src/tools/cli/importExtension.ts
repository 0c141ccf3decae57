import {createRequire} from 'node:module';
import {isAbsolute, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {loadedCopies} from '../../../quant/loadedCopies.ts';

/**
 * Imports a module that extends the library, such as one that registers a model family.
 *
 * @param specifier a file's path (`./my-extension.js`), or the name of a package that is installed beside this library
 *   or in the working directory
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a module that cannot be imported, or that loads another copy of the
 *   library, where its registrations would have no effect; and those that the module throws
 */
export async function importExtension(specifier: string): Promise<void> {
  try {
    await importModule(specifier);
  } catch (cause) {
    if (cause instanceof TfjsLoraError) throw cause;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `--import ${specifier}: expected a module that Node imports, by a path such as ./extension.js or a package's ` +
        `name, got ${String(cause)}`,
      {cause},
    );
  }
  const [own, other] = loadedCopies();
  if (other === undefined) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `--import ${specifier}: expected a module that uses this copy of tfjs-lora (${own}), got one that also loads ` +
      `${other}. Make it an ES module, install both in the same project, and list tfjs-lora among its peerDependencies.`,
  );
}

async function importModule(specifier: string): Promise<unknown> {
  if (/^\.{0,2}[/\\]/.test(specifier) || isAbsolute(specifier)) return import(urlOf(resolve(specifier)));
  if (specifier.startsWith('file:')) return import(specifier);
  try {
    return await import(specifier);
  } catch (error) {
    if (!isMissing(error)) throw error;
    return import(urlOf(createRequire(resolve('package.json')).resolve(specifier)));
  }
}

const urlOf = (path: string): string => pathToFileURL(path).href;

const isMissing = (error: unknown): boolean =>
  String((error as NodeJS.ErrnoException)?.code).endsWith('MODULE_NOT_FOUND');
