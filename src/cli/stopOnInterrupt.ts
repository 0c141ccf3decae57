/**
 * Turns the first Ctrl-C into a request to stop: what runs finishes its step, saves and ends. The second ends the
 * process at once.
 *
 * @returns the request's signal, and `release`, after which Ctrl-C acts as before
 */
export function stopOnInterrupt(): {signal: AbortSignal; release: () => void} {
  const controller = new AbortController();
  const listener = () => {
    console.error('\nStopping after this step, then saving. Ctrl-C again ends at once.');
    controller.abort();
    process.removeListener('SIGINT', listener);
  };
  process.on('SIGINT', listener);
  return {signal: controller.signal, release: () => process.removeListener('SIGINT', listener)};
}
