import {printAboveProgress} from '../../training/callbacks/progressBar.ts';
import {ranks} from '../../training/cluster/ranks.ts';

/** The signals of Ctrl-C, of `kill`, Docker and SLURM, and of a closed terminal. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Milliseconds in which a repeated signal counts as the same: npm forwards the Ctrl-C that the terminal sent as well.
 */
const SAME_MS = 1000;

/**
 * Turns the first signal into a request to stop, so that the run finishes its step, saves and ends. The second signal
 * ends the process immediately.
 *
 * @param now clock in milliseconds
 * @returns the request's signal, and `release`, which restores the default handling of signals
 */
export function stopOnInterrupt(now = () => performance.now()): {signal: AbortSignal; release: () => void} {
  const controller = new AbortController();
  let asked: number | undefined;
  const listener = (name: NodeJS.Signals) => {
    if (asked === undefined) {
      asked = now();
      const text = 'Stopping after this step, then saving. Press Ctrl-C again to end immediately.';
      if (ranks().isFirst) printAboveProgress(process.stderr, text);
      controller.abort();
    } else if (now() - asked > SAME_MS) {
      release();
      process.kill(process.pid, name);
    }
  };
  const release = () => {
    for (const name of SIGNALS) process.removeListener(name, listener);
    for (const stream of [process.stdout, process.stderr]) stream.removeListener('error', ignore);
  };
  for (const name of SIGNALS) process.on(name, listener);
  for (const stream of [process.stdout, process.stderr]) stream.on('error', ignore);
  return {signal: controller.signal, release};
}

/** Ignores errors of a closed terminal: its output is lost, but the run must still save. */
const ignore = () => {};
