import {TfjsLoraError} from '../../../../quant/errors.ts';
import {
  StorageFolder,
  serveTasks,
  type TaskContext,
  TaskWorker,
} from '../../../../src/tools/browser/index.ts';

const tasks = {
  /** Reports each number below a limit until it is stopped, and returns how many there were. */
  async count(
    limit: number,
    {report, signal}: TaskContext<number>,
  ): Promise<{counted: number; why?: string}> {
    for (let n = 0; n < limit; n++) {
      report(n);
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (signal.aborted) return {counted: n + 1, why: String(signal.reason)};
    }
    return {counted: limit};
  },
  refuse: (code: 'DISK_FULL') => {
    throw new TfjsLoraError(code, 'no room');
  },
  break: () => {
    throw new RangeError('broken');
  },
};

/** A page's end of a worker, whose messages are copied between the two as between threads. */
function connected() {
  const {port1, port2} = new MessageChannel();
  const toScope = (port: MessagePort) => ({
    postMessage: (message: unknown) => port.postMessage(message),
    addEventListener: (type: string, listener: never) => {
      port.addEventListener(type, listener);
      port.start();
    },
  });
  const failures: ((event: {message: string}) => void)[] = [];
  const close = () => port1.close();
  serveTasks(tasks, toScope(port2) as never);
  const page = toScope(port1);
  const worker = {
    ...page,
    terminate: close,
    addEventListener(type: string, listener: never) {
      if (type === 'error') failures.push(listener);
      else page.addEventListener(type, listener);
    },
  };
  const fail = (message: string) => {
    for (const each of failures) each({message});
  };
  return {worker: new TaskWorker<typeof tasks>(worker as never), fail, close};
}

let ends: ReturnType<typeof connected>;
beforeEach(() => {
  ends = connected();
});
afterEach(() => ends.close());

test('a task reports while it runs, beside others, and returns its result', async () => {
  const seen: string[] = [];
  const results = await Promise.all(
    [3, 2].map((limit) => ends.worker.run('count', limit, {onReport: (n) => seen.push(`${limit}:${n}`)})),
  );
  expect(results).toEqual([{counted: 3}, {counted: 2}]);
  expect(seen).toEqual(['3:0', '2:0', '3:1', '2:1', '3:2']);
});

test('an abort reaches the signal of the task that runs, with its reason', async () => {
  const stop = new AbortController();
  const result = await ends.worker.run('count', 1e9, {
    signal: stop.signal,
    onReport: (n) => n === 4 && stop.abort('enough'),
  });
  expect(result).toMatchObject({why: 'enough'});
  await expect(ends.worker.run('count', 1, {signal: stop.signal})).rejects.toBe('enough');
});

test('an error keeps its message, name and code', async () => {
  const refused = await ends.worker.run('refuse', 'DISK_FULL').catch((error) => error);
  expect(refused).toBeInstanceOf(TfjsLoraError);
  expect(refused).toMatchObject({code: 'DISK_FULL', message: 'no room'});
  await expect(ends.worker.run('break', undefined as never)).rejects.toMatchObject({
    name: 'RangeError',
    message: 'broken',
  });
  await expect(ends.worker.run('toString' as 'break', undefined as never)).rejects.toThrow(
    'the worker has no task toString',
  );
  await expect(ends.worker.run('count', (() => {}) as never)).rejects.toThrow('could not be cloned');
});

test('a worker that fails or is terminated rejects what runs and what comes later', async () => {
  const running = ends.worker.run('count', 20);
  ends.fail('out of memory');
  await expect(running).rejects.toThrow('the worker failed: out of memory');
  await expect(ends.worker.run('count', 1)).rejects.toThrow('the worker failed: out of memory');
  const other = connected();
  const cut = other.worker.run('count', 20);
  other.worker.terminate();
  await expect(cut).rejects.toThrow('the worker was terminated');
});

test('where a browser has no storage of its own, a storage folder says so', () => {
  expect(() => new StorageFolder('runs')).toThrow(
    expect.objectContaining({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('StorageFolder runs: expected a browser'),
    }),
  );
  expect(() => new StorageFolder('a/../b')).toThrow(expect.objectContaining({code: 'INVALID_ARGUMENT'}));
});
