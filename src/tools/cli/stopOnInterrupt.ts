import {printAboveProgress} from '../../training/callbacks/progressBar.ts';

/** Ctrl-C; `kill`, Docker and SLURM; a terminal that is closed. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** npm passes a Ctrl-C on that the terminal has sent to its programs too: a second one so soon is the same. */
const SAME_MS = 1000;

/**
 * Turns the first signal to end into a request to stop: what runs finishes its step, saves and ends. The second ends the
 * process at once.
 *
 * @param now milliseconds
 * @returns the request's signal, and `release`, after which signals act as before
 */
export function stopOnInterrupt(now = () => performance.now()): {signal: AbortSignal; release: () => void} {
  const controller = new AbortController();
  let asked: number | undefined;
  const listener = (name: NodeJS.Signals) => {
    if (asked === undefined) {
      asked = now();
      printAboveProgress(
        process.stderr,
        'Stopping after this step, then saving. Press Ctrl-C again to end at once.',
      );
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

/** What is written to a terminal that was closed is lost; what is saved must not be. */
const ignore = () => {};
