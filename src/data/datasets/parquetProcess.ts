// biome-ignore lint/style/noRestrictedImports: this module is a process of its own
import process from 'node:process';
import {Worker} from 'node:worker_threads';

/** The process's answer to each request: the rows of the next row group, the end, or an error. */
export type ParquetAnswer = {rows: Record<string, unknown>[]} | {isEnd: true} | {error: string};

const [path, seconds] = process.argv.slice(2);
const groups = rowGroups();
const requests = new Int32Array(new SharedArrayBuffer(4));

/** Ends the process when a row group takes too much processor time; a timer cannot run while the decoder loops. */
const WATCHDOG = `
  const {workerData: {requests, seconds}} = require('node:worker_threads');
  let [request, start] = [-1, process.cpuUsage()];
  setInterval(() => {
    const current = Atomics.load(requests, 0);
    if (current !== request) [request, start] = [current, process.cpuUsage()];
    const {user, system} = process.cpuUsage(start);
    if ((user + system) / 1e6 > seconds) process.kill(process.pid, 'SIGKILL');
  }, 100);
`;
new Worker(WATCHDOG, {eval: true, execArgv: [], workerData: {requests, seconds: Number(seconds)}}).unref();

process.on('unhandledRejection', () => {}); // another column failed after the answer
process.on('message', async () => {
  Atomics.add(requests, 0, 1);
  let answer: ParquetAnswer;
  try {
    const {done, value} = await groups.next();
    answer = done ? {isEnd: true} : {rows: value};
  } catch (error) {
    answer = {error: (error as Error).message};
  }
  process.send?.(answer);
});

async function* rowGroups(): AsyncGenerator<Record<string, unknown>[], void> {
  // Both are ES modules only, which CommonJS can import only dynamically.
  const [{asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects}, {compressors}] = await Promise.all([
    import('hyparquet'),
    import('hyparquet-compressors'),
  ]);
  const file = await asyncBufferFromFile(path);
  const metadata = await parquetMetadataAsync(file);
  const declared = metadata.row_groups.map((group) => Number(group.num_rows));
  const total = declared.reduce((sum, rows) => sum + rows, 0);
  if (declared.some((rows) => !(rows >= 0)) || total !== Number(metadata.num_rows))
    throw new Error(
      `row groups of ${declared.slice(0, 5).join(', ')} rows for ${metadata.num_rows} rows in all`,
    );
  let rowStart = 0;
  for (const count of declared) {
    const rowEnd = rowStart + count;
    const rows = await parquetReadObjects({file, metadata, compressors, rowStart, rowEnd});
    assertWhole(rows, count);
    yield rows;
    rowStart = rowEnd;
  }
}

/** Checks that no column ends early, which leaves holes; missing values are null. */
function assertWhole(rows: Record<string, unknown>[], count: number): void {
  if (rows.length !== count) throw new Error(`${rows.length} rows in a row group of ${count}`);
  for (const [i, row] of rows.entries()) {
    for (const [column, value] of Object.entries(row))
      if (value === undefined) throw new Error(`a column '${column}' that ends after ${i} of ${count} rows`);
  }
}
