import {createRequire} from 'node:module';
import {extname} from 'node:path';
import {pathToFileURL} from 'node:url';

/**
 * A worker thread's module: beside the one that starts it in the built package, as `.js` or `.cjs`; `.ts` in the sources.
 *
 * @param from `import.meta.url` of the module that starts it
 */
export function workerModule(name: string, from: string): URL {
  const script = new URL(`./${name}${extname(from)}`, from);
  if (!script.pathname.endsWith('.ts')) return script;
  // A worker does not inherit what translates TypeScript here, so its first lines set that up.
  const translator = pathToFileURL(
    createRequire(from)
      .resolve('tsx/esm/api')
      .replace(/\.cjs$/, '.mjs'),
  );
  return new URL(
    `data:text/javascript,import {register} from '${translator}'; register(); await import('${script}');`,
  );
}
