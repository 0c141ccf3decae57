import {basename, resolve} from 'node:path';

/** A name for the adapter in a folder: the folder's own, as adapter names are spelt, and one that is still free. */
export function adapterNameOf(folder: string, taken: readonly string[]): string {
  const name = basename(resolve(folder)).replace(/[^\w-]+/g, '-') || 'adapter';
  let free = name;
  for (let count = 2; taken.includes(free); count++) free = `${name}-${count}`;
  return free;
}
