import {nextTask} from './nextTask.ts';

/**
 * Lets the event loop run, because backends that compute on this thread block it, and no signal would be noticed. Does
 * nothing without a signal.
 *
 * @throws the signal's reason once it is aborted
 */
export async function letSignalsThrough(signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return;
  signal.throwIfAborted();
  await nextTask();
  signal.throwIfAborted();
}
