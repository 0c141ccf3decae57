/**
 * Resolves in a later task of the event loop, so that signals, timers and the screen get their turn. `tf.nextFrame`
 * waits for the screen instead: a step of training would last until then, and for ever in a hidden tab.
 */
export const nextTask = (): Promise<void> =>
  new Promise((resolve) => {
    if (typeof setImmediate === 'function') {
      setImmediate(resolve);
      return;
    }
    const {port1, port2} = new MessageChannel(); // browsers delay nested timers
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
