import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import type {Task, TaskContext, TaskError, TaskReply, TaskRequest} from './serveTasks.ts';

/** The argument of a task. */
type ArgumentOf<T> = T extends (argument: infer A, ...rest: never[]) => unknown ? A : never;

/** The values that a task reports. */
type ReportOf<T> = T extends (argument: never, context: TaskContext<infer R>) => unknown ? R : never;

type ResultOf<T extends Task> = Awaited<ReturnType<T>>;

export interface RunTaskOptions<Report> {
  /** Called with each value that the task reports. */
  onReport?: (value: Report) => void;
  /** Aborts the signal that the task got; the task decides what becomes of it. */
  signal?: AbortSignal;
}
const RUN_TASK_OPTIONS = {
  onReport: true,
  signal: true,
} satisfies OptionNames<RunTaskOptions<unknown>>;

/** A task that runs. */
interface Pending {
  onReport?: (value: never) => void;
  resolve(result: never): void;
  reject(error: unknown): void;
}

/**
 * A page's side of a worker that called `serveTasks`. The page stays responsive, because model and training are in the
 * worker.
 *
 * @example
 * ```ts
 * import type {StepLog, TrainingRecord} from 'tfjs-lora';
 * import {type TaskContext, TaskWorker} from 'tfjs-lora/browser';
 *
 * type Tasks = {train(records: TrainingRecord[], context: TaskContext<StepLog>): Promise<void>}; // or of the worker's file
 * const worker = new Worker(new URL('./worker.js', import.meta.url), {type: 'module'});
 * const tasks = new TaskWorker<Tasks>(worker);
 * await tasks.run('train', [{text: 'Ada founded Adaville.'}], {onReport: ({loss}) => console.log(loss)});
 * ```
 */
export class TaskWorker<T extends {[name in keyof T]: Task}> {
  private readonly pending = new Map<number, Pending>();
  private runs = 0;
  private fault?: Error;

  constructor(private readonly worker: Worker) {
    worker.addEventListener('message', ({data}) => this.receive(data));
    worker.addEventListener('error', ({message}) => {
      this.fail(new Error(`the worker failed${message ? `: ${message}` : ' to load'}`));
    });
    worker.addEventListener('messageerror', () =>
      this.fail(new Error('the worker sent what cannot be read')),
    );
  }

  /**
   * Runs a task in the worker.
   *
   * @returns a copy of the task's result
   * @throws TfjsLoraError with the message and code of the one that the task threw; `Error` with the message of any other
   *   error, and when the worker fails or is terminated
   */
  run<K extends keyof T & string>(
    task: K,
    argument: ArgumentOf<T[K]>,
    options: RunTaskOptions<ReportOf<T[K]>> = {},
  ): Promise<ResultOf<T[K]>> {
    assertKnownOptions('TaskWorker.run', options, RUN_TASK_OPTIONS);
    const {onReport, signal} = options;
    return new Promise<ResultOf<T[K]>>((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.fault) throw this.fault;
      const id = this.runs++;
      this.send({id, task, argument});
      this.pending.set(id, {onReport, resolve, reject});
      signal?.addEventListener('abort', () => {
        if (this.pending.has(id)) this.send({id, abort: signal.reason});
      });
    });
  }

  /** Ends the worker. A task that is running is cut off and rejects. */
  terminate(): void {
    this.worker.terminate();
    this.fail(new Error('the worker was terminated'));
  }

  private send(request: TaskRequest): void {
    this.worker.postMessage(request);
  }

  private receive(reply: TaskReply): void {
    const run = this.pending.get(reply.id);
    if ('report' in reply) {
      run?.onReport?.(reply.report as never);
      return;
    }
    this.pending.delete(reply.id);
    if ('error' in reply) run?.reject(received(reply.error));
    else run?.resolve(reply.result as never);
  }

  private fail(fault: Error): void {
    this.fault ??= fault;
    for (const {reject} of this.pending.values()) reject(fault);
    this.pending.clear();
  }
}

/** Makes the error that the worker sent. */
function received({name, message, code, stack}: TaskError): Error {
  const error = code === undefined ? new Error(message) : new TfjsLoraError(code, message);
  return Object.assign(error, {name, ...(stack !== undefined && {stack})});
}
