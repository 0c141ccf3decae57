import {createRequire} from 'node:module';
import {extname} from 'node:path';
import {pathToFileURL} from 'node:url';

/**
 * Locates a worker thread's module beside the one that starts it: `.js` or `.cjs` in the built package, `.ts` in the
 * sources.
 *
 * @param from `import.meta.url` of the module that starts it
 */
export function workerModule(name: string, from: string): URL {
  const script = new URL(`./${name}${extname(from)}`, from);
  if (!script.pathname.endsWith('.ts')) return script;
  // A worker does not inherit the TypeScript loader, so its first lines register it.
  const translator = pathToFileURL(
    createRequire(from)
      .resolve('tsx/esm/api')
      .replace(/\.cjs$/, '.mjs'),
  );
  return new URL(
    `data:text/javascript,import {register} from '${translator}'; register(); await import('${script}');`,
  );
}
