import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {Backend} from './backend.ts';
import {isNode, processor} from './processor.ts';

/** Native TensorFlow in Node, on the graphics card if the first of these packages is installed. */
const PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'];

/** Native TensorFlow through whichever of {@link PACKAGES} is installed and loads. */
export const tensorflow: Backend = {
  name: 'tensorflow',
  async start() {
    const loaded = await loadPackage();
    if (!(await tf.setBackend('tensorflow'))) {
      throw unavailable(`${loaded} loaded, but its backend did not start`);
    }
    const {model} = await processor();
    return {device: model, features: [loaded]};
  },
};

async function loadPackage(): Promise<string> {
  if (!isNode()) throw unavailable('this is a browser');
  const failures: string[] = [];
  for (const name of PACKAGES) {
    try {
      const specifier: string = name;
      await import(/* @vite-ignore */ /* webpackIgnore: true */ specifier);
      return name;
    } catch (error) {
      failures.push(`${name}: ${failureOf(error, name)}`);
    }
  }
  throw unavailable(failures.join('; '));
}

function failureOf(error: unknown, name: string): string {
  const {code, message} = error as NodeJS.ErrnoException;
  const notFound = code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND';
  if (notFound && message.includes(name)) return 'not installed';
  return `does not load (${message.split('\n')[0]})`;
}

function unavailable(got: string): TfjsLoraError {
  return new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `useBackend tensorflow: expected ${PACKAGES.join(' or ')}, got: ${got}. npm install one of them, or use wasm.`,
  );
}
