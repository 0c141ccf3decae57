import {type ChildProcess, fork} from 'node:child_process';
import {once} from 'node:events';
import {stat} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {extname} from 'node:path';
import {fileURLToPath, pathToFileURL} from 'node:url';
import type {ParquetAnswer} from './parquetProcess.ts';
import type {SourceRecord} from './sourceRecord.ts';

/** Processor seconds for a row group of a small file; a larger file gets one more per so many bytes. */
const PATIENCE = {seconds: 3, bytesPerSecond: 2 ** 22};
/** Heap in MiB for a small file, and per MiB of a larger one. */
const HEAP = {small: 512, perMiB: 64};

/**
 * Reads the rows of a Parquet file, one row group at a time. A separate process decodes them: a broken file may make
 * the decoder loop forever, or fill the memory, which ends a process with all its threads.
 *
 * @throws Error saying what is wrong with the file
 */
export async function* parquetRecords(path: string): AsyncGenerator<SourceRecord> {
  const {size} = await stat(path);
  const decoder = new ParquetDecoder(path, size);
  try {
    let index = 0;
    for (let rows = await decoder.next(); rows; rows = await decoder.next())
      for (const value of rows) yield {value, file: path, index: index++};
  } finally {
    await decoder.close();
  }
}

class ParquetDecoder {
  private readonly process: ChildProcess;
  private readonly seconds: number;
  private hasEnded = false;
  private settle?: (answer: ParquetAnswer) => void;

  constructor(path: string, bytes: number) {
    this.seconds = Math.round(PATIENCE.seconds + bytes / PATIENCE.bytesPerSecond);
    const heap = Math.ceil(HEAP.small + (HEAP.perMiB * bytes) / 2 ** 20);
    const {script, execArgv} = processScript();
    this.process = fork(script, [path, `${this.seconds}`], {
      execArgv: [...execArgv, `--max-old-space-size=${heap}`],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    this.process.on('message', (answer) => this.settle?.(answer as ParquetAnswer));
    this.process.on('error', ({message}) => this.end(message));
    this.process.on('exit', (_, signal) =>
      this.end(
        signal === 'SIGKILL'
          ? `no result after ${this.seconds} seconds of decoding a row group`
          : `a row group that does not fit into ${heap} MiB`,
      ),
    );
  }

  /** Returns the rows of the next row group; undefined after the last. */
  async next(): Promise<Record<string, unknown>[] | undefined> {
    const answer = await new Promise<ParquetAnswer>((resolve) => {
      this.settle = resolve;
      this.process.send('next', (error) => error && this.end(error.message));
    });
    if ('error' in answer) throw new Error(answer.error);
    return 'rows' in answer ? answer.rows : undefined;
  }

  async close(): Promise<void> {
    this.settle = undefined;
    if (this.hasEnded) return;
    const ended = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await ended;
  }

  private end(error: string): void {
    this.hasEnded = true;
    this.settle?.({error});
  }
}

/** Locates the process's module beside this one: `.js` or `.cjs` in the built package, `.ts` in the sources. */
function processScript(): {script: string; execArgv: string[]} {
  const script = fileURLToPath(new URL(`./parquetProcess${extname(import.meta.url)}`, import.meta.url));
  if (!script.endsWith('.ts')) return {script, execArgv: []};
  const translator = createRequire(import.meta.url).resolve('tsx/esm');
  return {script, execArgv: ['--import', pathToFileURL(translator).href]};
}
