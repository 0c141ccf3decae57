/** Runs tasks one at a time, in the order they came: a model answers one request after the other. */
export class RequestQueue {
  private last: Promise<unknown> = Promise.resolve();

  /** Runs a task when those before it have ended, however they ended; one aborted while it waits never starts. */
  run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const result = this.last.then(() => {
      signal.throwIfAborted();
      return task();
    });
    this.last = result.catch(() => {});
    return result;
  }

  /** Resolves when nothing runs or waits. */
  async idle(): Promise<void> {
    for (let last: unknown; last !== this.last; ) {
      last = this.last;
      await last;
    }
  }
}
