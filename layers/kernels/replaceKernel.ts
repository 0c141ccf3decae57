import * as tf from '@tensorflow/tfjs';
import type {StockKernel} from './kernel.ts';

/** Registers a kernel and replaces one of the same name if there is one. */
export function replaceKernel(kernel: tf.KernelConfig): void {
  const {kernelName, backendName} = kernel;
  if (tf.getKernel(kernelName, backendName)) tf.unregisterKernel(kernelName, backendName);
  tf.registerKernel(kernel);
}

// Stored on the kernels: a second copy of this file (ES module and CommonJS) must not take ours for the stock ones.
const STOCK = Symbol.for('tfjs-lora.stock');

/**
 * Replaces a stock kernel by one that leaves some inputs to it. The stock kernel must already be registered. Calling
 * this again is harmless.
 */
export function replaceStockKernel({kernelName, backendName, make}: StockKernel): void {
  const current = tf.getKernel(kernelName, backendName).kernelFunc as tf.KernelFunc & {
    [STOCK]?: tf.KernelFunc;
  };
  const stock = current[STOCK] ?? current;
  const kernel = make(stock);
  replaceKernel({...kernel, kernelFunc: Object.assign(kernel.kernelFunc, {[STOCK]: stock})});
}
