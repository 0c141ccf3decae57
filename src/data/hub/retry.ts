import {setTimeout as pause} from 'node:timers/promises';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';

export interface RetryOptions {
  /** Consecutive failures before giving up. */
  attempts: number;
  /** Milliseconds before the second attempt, doubled before each further one. */
  delay: number;
  /** Milliseconds that a connection may stay silent. */
  idleTimeout: number;
  signal?: AbortSignal;
}

/** A failure that another attempt may not meet. */
export class TransientError extends Error {
  /**
   * @param waitMs how long the server asks to wait, in milliseconds. Default 0
   * @param hasProgressed whether the attempt got far enough to count failures from one again. Default false
   */
  constructor(
    message: string,
    readonly waitMs = 0,
    readonly hasProgressed = false,
  ) {
    super(message);
  }
}

/**
 * Abort signal for one attempt. It follows the outer signal and also aborts, with a {@link TransientError}, when
 * nothing arrives for a while, because a network that is gone closes no connection.
 */
export class IdleSignal {
  readonly signal: AbortSignal;
  private readonly timer: NodeJS.Timeout;

  constructor({idleTimeout, signal}: RetryOptions) {
    const controller = new AbortController();
    const fail = () => controller.abort(new TransientError(`nothing arrived for ${idleTimeout / 1000} s`));
    this.timer = setTimeout(fail, idleTimeout);
    this.signal = signal ? AbortSignal.any([signal, controller.signal]) : controller.signal;
  }

  /** Restarts the wait after something arrived. */
  refresh(): void {
    this.timer.refresh();
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}

/** Longest wait in milliseconds that a server may ask for. */
const LONGEST_WAIT = 300_000;

/** Pauses in milliseconds above which a warning announces them. */
const NOTICED_PAUSE = 5_000;

/**
 * Repeats attempts, with a pause between them, while they fail with a {@link TransientError}.
 *
 * @param what beginning of the message: `http://host cannot be reached`
 * @throws TfjsLoraError `NETWORK` after the last attempt; the signal's reason when it is aborted; any other error
 *   unchanged
 */
export async function retry<T>(
  what: string,
  {attempts, delay, signal}: RetryOptions,
  attempt: () => Promise<T>,
): Promise<T> {
  for (let failures = 1; ; failures++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof TransientError)) throw error;
      if (error.hasProgressed) failures = 1;
      const wait = Math.max(error.waitMs, delay * 2 ** (failures - 1));
      if (failures >= attempts || wait > LONGEST_WAIT) {
        const asked =
          wait > LONGEST_WAIT ? `; the server asks to wait ${Math.ceil(error.waitMs / 1000)} s` : '';
        throw new TfjsLoraError('NETWORK', `${what}: ${error.message}${asked}`, {cause: error});
      }
      if (wait > NOTICED_PAUSE)
        warn(`${what}: ${error.message}. Trying again in ${Math.ceil(wait / 1000)} s.`);
      await pause(wait, undefined, {signal}).catch(() => signal?.throwIfAborted());
    }
  }
}
