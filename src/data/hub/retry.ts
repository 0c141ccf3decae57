import {setTimeout as pause} from 'node:timers/promises';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';

export interface RetryOptions {
  /** Failures in a row before it is given up. */
  attempts: number;
  /** Milliseconds before the second attempt, doubled before each further one. */
  delay: number;
  /** Milliseconds in which something must come of an answer. */
  idleTimeout: number;
  signal?: AbortSignal;
}

/** What another attempt may mend. */
export class TransientError extends Error {
  /**
   * @param waitMs how long the server asks to wait
   * @param hasProgressed the attempt got so far that failures are counted from one again
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
 * A signal for one attempt, aborted with the outer one or, with a {@link TransientError}, when nothing comes for a while: a
 * network that is gone closes no connection.
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

  /** Something came. */
  refresh(): void {
    this.timer.refresh();
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}

/** The longest wait that a server may ask for. */
const LONGEST_WAIT = 300_000;

/** Longer pauses are announced. */
const NOTICED_PAUSE = 5_000;

/**
 * Tries again after a pause while attempts fail with a {@link TransientError}.
 *
 * @param what begins the message: `http://host cannot be reached`
 * @throws TfjsLoraError `NETWORK` after the last attempt; the signal's reason when it is aborted; any other error as it is
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
