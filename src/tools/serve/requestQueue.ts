/** Runs tasks one at a time in their order. */
export class RequestQueue {
  private last: Promise<unknown> = Promise.resolve();

  /** Runs a task after the earlier ones have ended, even if they failed. A task aborted while waiting never starts. */
  run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const result = this.last.then(() => {
      signal.throwIfAborted();
      return task();
    });
    this.last = result.catch(() => {});
    return result;
  }

  /** Resolves when no task is running or waiting. */
  async idle(): Promise<void> {
    for (let last: unknown; last !== this.last; ) {
      last = this.last;
      await last;
    }
  }
}
