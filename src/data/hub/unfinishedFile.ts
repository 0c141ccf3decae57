import {createHash} from 'node:crypto';
import {copyFile, readdir, rename, rm, stat} from 'node:fs/promises';
import {hostname} from 'node:os';
import {basename, dirname, join} from 'node:path';
// biome-ignore lint/style/noRestrictedImports: a download whose process still runs is left to it
import {kill, pid} from 'node:process';
import {threadId} from 'node:worker_threads';

const ENDING = '.incomplete';

/** Files that this thread is writing. */
const active = new Set<string>();

/** Milliseconds after which an unfinished file of another machine counts as abandoned. */
const ABANDONED_AFTER = 24 * 3600_000;

/** Part of file names, because a cache may be shared over a network and process ids belong to one machine. */
const machine = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);

/**
 * A file on its way to becoming `target`, to which only this thread writes. It begins with what an earlier, interrupted
 * download left: renamed when its process has ended, copied when that is unknown (Python's `<hash>.incomplete`).
 */
export class UnfinishedFile {
  private constructor(
    readonly path: string,
    /** Whether it began with another download's bytes. */
    readonly isContinued: boolean,
  ) {}

  static async for(target: string): Promise<UnfinishedFile> {
    const path = `${target}.${machine}-${pid}-${threadId}-${randomName()}${ENDING}`;
    active.add(path);
    const isContinued = (await takeOver(target, path)) || (await copyPythons(target, path));
    return new UnfinishedFile(path, isContinued);
  }

  /** Renames it to its target, and removes what other interrupted downloads of the target left. */
  async finish(target: string): Promise<void> {
    await rename(this.path, target);
    active.delete(this.path);
    for (const path of await abandoned(target)) await rm(path, {force: true});
  }

  /** Leaves it for a later download to resume. */
  leave(): void {
    active.delete(this.path);
  }

  async remove(): Promise<void> {
    await rm(this.path, {force: true});
    active.delete(this.path);
  }
}

export const randomName = () => Math.random().toString(36).slice(2, 12);

async function takeOver(target: string, path: string): Promise<boolean> {
  for (const each of await abandoned(target)) {
    // When two try at the same time, one succeeds.
    const isTaken = await rename(each, path).then(
      () => true,
      () => false,
    );
    if (isTaken) return true;
  }
  return false;
}

async function copyPythons(target: string, path: string): Promise<boolean> {
  return copyFile(`${target}${ENDING}`, path).then(
    () => true,
    () => false,
  );
}

/** Lists a target's unfinished files that are no longer written to, largest first. */
async function abandoned(target: string): Promise<string[]> {
  const folder = dirname(target);
  const start = `${basename(target)}.`;
  const found: {path: string; size: number}[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    const owner = name.startsWith(start)
      ? /^(\w+)-(\d+)-(\d+)-\w+\.incomplete$/.exec(name.slice(start.length))
      : null;
    const path = join(folder, name);
    const file = owner && (await stat(path).catch(() => undefined));
    if (!file?.isFile()) continue;
    const [, itsMachine, itsPid, itsThread] = owner as RegExpExecArray;
    const isAbandoned =
      itsMachine !== machine
        ? Date.now() - file.mtimeMs > ABANDONED_AFTER
        : Number(itsPid) === pid
          ? Number(itsThread) === threadId && !active.has(path)
          : !isRunning(Number(itsPid));
    if (isAbandoned) found.push({path, size: file.size});
  }
  return found.sort((a, b) => b.size - a.size).map(({path}) => path);
}

function isRunning(process: number): boolean {
  try {
    kill(process, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // another user's
  }
}
