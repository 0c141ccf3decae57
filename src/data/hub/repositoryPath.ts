import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';

/** Longest name in bytes that file systems allow, and longest path in characters. */
const [LONGEST_NAME, LONGEST_PATH] = [255, 4096];

/** Control characters, separators of folders or drives on Windows, and unpaired surrogates. */
const FORBIDDEN = /[\0-\x1f\x7f\\]|^[a-z]:|\p{Surrogate}/iu;

/**
 * Whether a path stays inside the folder it is joined to on every system: relative, with `/`, without `.` and `..`,
 * drive letters, backslashes, control characters and names that are too long.
 */
export function isRepositoryPath(path: unknown): path is string {
  if (typeof path !== 'string' || path.length > LONGEST_PATH || FORBIDDEN.test(path)) return false;
  return path
    .split('/')
    .every((name) => name !== '' && name !== '.' && name !== '..' && Buffer.byteLength(name) <= LONGEST_NAME);
}

/**
 * Refuses an untrusted path that could lead out of its folder.
 *
 * @param where what contains the path, for the message
 * @throws TfjsLoraError `CORRUPT_FILE`
 */
export function assertRepositoryPath(path: unknown, where: string): asserts path is string {
  if (isRepositoryPath(path)) return;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${where}: expected a path inside the repository, got ${show(path)}.`,
  );
}
