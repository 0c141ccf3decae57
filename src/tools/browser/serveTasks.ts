import type {ErrorCode} from '../../../quant/errors.ts';

/** The context of a task, which it gets in addition to its argument. */
export interface TaskContext<Report = unknown> {
  /** Sends the page a value while the task runs, such as a step's loss or a piece of text. It is copied. */
  report(value: Report): void;
  /** Aborted when the page aborts the signal it passed to `run`. Pass it on to `fitDataset` and the like. */
  signal: AbortSignal;
}

/**
 * Work that a page asks a worker for. Argument, reports and result are copied between the threads (structured clone), so
 * they are plain data, typed arrays, `Blob`s, `Map`s of them; not models or tensors.
 */
export type Task = (argument: never, context: TaskContext<never>) => unknown;

/** What the page sends. */
export type TaskRequest = {id: number} & ({task: string; argument: unknown} | {abort: unknown});

/** What the worker answers: any number of reports, then a result or an error. */
export type TaskReply = {id: number} & ({report: unknown} | {result: unknown} | {error: TaskError});

/** An error, as it travels. */
export interface TaskError {
  name: string;
  message: string;
  /** Code of a `TfjsLoraError`. */
  code?: ErrorCode;
  stack?: string;
}

/** The part of a worker's global scope that tasks need. */
interface TaskScope {
  postMessage(reply: TaskReply): void;
  addEventListener(type: 'message', listener: (event: {data: TaskRequest}) => void): void;
}

/**
 * Answers the requests of a page's `TaskWorker`. Call it once, in the worker's module, before its first `await`: requests
 * that arrive earlier are lost.
 *
 * @param scope what messages come from and go to. Default: the worker itself
 * @returns the tasks, so that the page can import their type
 * @example
 * ```ts
 * import {Llama, type StepLog, type TrainingRecord} from 'tfjs-lora';
 * import {serveTasks, StorageFolder, type TaskContext} from 'tfjs-lora/browser';
 *
 * const tasks = serveTasks({
 *   async train(records: TrainingRecord[], {report, signal}: TaskContext<StepLog>) {
 *     const model = await Llama.fromPretrained(new StorageFolder('models/llama'));
 *     model.applyLoRA({rank: 8});
 *     model.compile();
 *     await model.fitDataset(records, {outputDir: new StorageFolder('runs/mine'), signal, callbacks: {onStepEnd: report}});
 *   },
 * });
 * export type Tasks = typeof tasks;
 * ```
 */
export function serveTasks<T extends Record<string, Task>>(
  tasks: T,
  scope: TaskScope = globalThis as unknown as TaskScope,
): T {
  const running = new Map<number, AbortController>();
  scope.addEventListener('message', async ({data}) => {
    const {id} = data;
    if ('abort' in data) return running.get(id)?.abort(data.abort);
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const context = {
        report: (report: unknown) => scope.postMessage({id, report}),
        signal: controller.signal,
      };
      if (!Object.hasOwn(tasks, data.task)) throw new Error(`the worker has no task ${data.task}`);
      scope.postMessage({id, result: await tasks[data.task](data.argument as never, context)});
    } catch (error) {
      scope.postMessage({id, error: errorToSend(error)});
    } finally {
      running.delete(id);
    }
  });
  return tasks;
}

function errorToSend(error: unknown): TaskError {
  const {name = 'Error', message = String(error), code, stack} = Object(error) as Partial<TaskError>;
  return {name, message, stack, ...(typeof code === 'string' && {code})};
}
