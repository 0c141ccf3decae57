import {TfjsLoraError} from '../../../quant/errors.ts';

/**
 * Replaces Node's file system and other modules of the process in the browser build: every call throws an error. The
 * names are those of `node:fs`, `node:fs/promises`, `node:os`, `node:url`, `node:crypto` and `node:async_hooks`; the
 * build fails if one is missing.
 */
const absent = (): never => {
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'files: expected a URL, Files or a Map of Blobs, got a path. A browser has no disk: ' +
      'pass the files themselves, and a Map or a StorageFolder to write into.',
  );
};

export {
  absent as accessSync,
  absent as appendFileSync,
  absent as closeSync,
  absent as createHash,
  absent as createReadStream,
  absent as execFileSync,
  absent as existsSync,
  absent as fileURLToPath,
  absent as fstatSync,
  absent as fsyncSync,
  absent as homedir,
  absent as mkdir,
  absent as mkdirSync,
  absent as openSync,
  absent as readdir,
  absent as readdirSync,
  absent as readFile,
  absent as readFileSync,
  absent as readlinkSync,
  absent as readSync,
  absent as realpath,
  absent as rename,
  absent as renameSync,
  absent as rm,
  absent as rmSync,
  absent as stat,
  absent as statSync,
  absent as utimesSync,
  absent as writeFile,
  absent as writeSync,
};

/** The limits of `node:buffer`, with the largest array in Chromium. */
export const constants = {MAX_LENGTH: 2 ** 31 - 1};

/** The name of the machine, in logs that have one. */
export const hostname = (): string => 'browser';

export const join = (...parts: string[]): string => parts.filter(Boolean).join('/');
export const resolve = join;
export const dirname = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')));
export const basename = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/** That of `node:async_hooks` without what follows an await, which a browser cannot attribute to a call. */
export class AsyncLocalStorage<T> {
  private store?: T;

  getStore(): T | undefined {
    return this.store;
  }

  run<R>(store: T, fn: () => R): R {
    const outer = this.store;
    this.store = store;
    try {
      return fn();
    } finally {
      this.store = outer;
    }
  }
}
