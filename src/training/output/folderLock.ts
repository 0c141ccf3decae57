import {execFileSync} from 'node:child_process';
import * as fs from 'node:fs';
import {hostname} from 'node:os';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';

const FILE = '.run.lock';

/** Milliseconds between renewals of a lock, and the age at which the lock of an unseen process counts as dead. */
const RENEWED_AFTER_MS = 60_000;
const DEAD_AFTER_MS = 300_000;

/** The process that holds a lock. Process ids are reused; together with its start time an id is unique on a system. */
interface Holder {
  pid: number;
  started?: string;
  /** The scope of process ids: the machine since it started, and the container. */
  system: string;
}

/**
 * One run's hold on an output folder: a file that names the process. A process that has ended, for whatever reason,
 * holds nothing.
 */
export class FolderLock {
  private readonly path: string;
  private readonly renewal: NodeJS.Timeout;

  private constructor(readonly folder: string) {
    this.path = join(folder, FILE);
    this.renewal = setInterval(() => this.renew(), RENEWED_AFTER_MS);
    this.renewal.unref();
  }

  /**
   * Takes a lock.
   *
   * @param what the setting that names the folder, for the error
   * @throws TfjsLoraError `INVALID_ARGUMENT` when a live process, this one included, holds it
   */
  static take(folder: string, what: string): FolderLock {
    const path = join(folder, FILE);
    while (!create(path)) {
      const text = assertDead(path, what);
      if (text !== undefined) removeDead(path, text);
    }
    return new FolderLock(folder);
  }

  /**
   * Checks that a folder is free, without taking it.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` as {@link take}
   */
  static assertFree(folder: string, what: string): void {
    const path = join(folder, FILE);
    if (fs.existsSync(path)) assertDead(path, what);
  }

  release(): void {
    clearInterval(this.renewal);
    fs.rmSync(this.path, {force: true});
  }

  private renew(): void {
    const now = new Date();
    try {
      fs.utimesSync(this.path, now, now);
    } catch {
      // Somebody removed it; the run continues anyway.
    }
  }
}

/**
 * Creates a lock file.
 *
 * @returns false when the file exists
 */
function create(path: string): boolean {
  let descriptor: number;
  try {
    descriptor = fs.openSync(path, 'wx');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
  const holder: Holder = {
    pid: globalThis.process.pid,
    started: startOf(globalThis.process.pid),
    system: system(),
  };
  fs.writeSync(descriptor, JSON.stringify(holder));
  fs.closeSync(descriptor);
  return true;
}

/**
 * Checks that the process of a lock is dead.
 *
 * @returns the text of its lock; undefined when the lock has gone meanwhile
 */
function assertDead(path: string, what: string): string | undefined {
  const text = readIfPresent(path);
  if (text === undefined) return undefined;
  const holder = parse(text);
  const isInSight = holder?.system === system();
  if (isInSight ? !isAlive(holder as Holder) : isOld(path)) return text;
  const who = holder
    ? `process ${holder.pid}${isInSight ? '' : ` of another system (${holder.system})`}`
    : 'a process';
  const advice = isInSight ? 'wait for it' : `wait for that run; if it has ended, remove ${resolve(path)}`;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected a folder that no other run writes to, got one in use by ${who}. ` +
      `Choose another folder, or ${advice}.`,
  );
}

/** Removes a dead lock. If another process has replaced it meanwhile, that process's lock is put back. */
function removeDead(path: string, text: string): void {
  const taken = `${path}.${globalThis.process.pid}.${startOf(globalThis.process.pid) ?? ''}`;
  try {
    fs.renameSync(path, taken);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if (readIfPresent(taken) === text) fs.rmSync(taken, {force: true});
  else fs.renameSync(taken, path);
}

function parse(text: string): Holder | undefined {
  try {
    const {pid, started, system} = JSON.parse(text) as Holder;
    return Number.isInteger(pid) && typeof system === 'string' ? {pid, started, system} : undefined;
  } catch {
    return undefined; // cut off while being written
  }
}

function isAlive({pid, started}: Holder): boolean {
  try {
    globalThis.process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // alive, but another user's
  }
  return startOf(pid) === started;
}

const isOld = (path: string): boolean => {
  const time = fs.statSync(path, {throwIfNoEntry: false})?.mtimeMs;
  return time === undefined || Date.now() - time > DEAD_AFTER_MS;
};

/** Returns when a process started; undefined if the system does not say. */
function startOf(pid: number): string | undefined {
  const status = readIfPresent(`/proc/${pid}/stat`);
  if (status !== undefined) return status.slice(status.lastIndexOf(')') + 2).split(' ')[19]; // proc(5): field 22
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {encoding: 'utf8', stdio: 'pipe'}).trim();
  } catch {
    return undefined;
  }
}

function system(): string {
  const boot = readIfPresent('/proc/sys/kernel/random/boot_id')?.trim();
  return [hostname(), boot, processNamespace()].filter(Boolean).join(' ');
}

/** Returns the namespace of a container, whose processes cannot see others. */
function processNamespace(): string | undefined {
  try {
    return fs.readlinkSync('/proc/self/ns/pid');
  } catch {
    return undefined;
  }
}

function readIfPresent(path: string): string | undefined {
  try {
    return fs.readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
