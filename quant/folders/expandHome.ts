import {homedir} from 'node:os';
import {join} from 'node:path';

/** Replaces `~/` at the beginning of a path with the user's folder, as a shell does. */
export const expandHome = (path: string): string =>
  path.startsWith('~/') ? join(homedir(), path.slice(2)) : path;
