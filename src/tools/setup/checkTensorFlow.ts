import {execFile} from 'node:child_process';
import {join} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {cardFolders} from '../../training/backends/fusedOps.ts';

export interface TensorFlowCheck {
  version: string;
  gpu: boolean;
  /** Time for loading TensorFlow and computing the product. */
  milliseconds: number;
}

const PRODUCT = `
const started = performance.now();
const tf = require(process.argv[1]);
const [value] = tf.tidy(() => tf.matMul(tf.ones([64, 96]), tf.fill([96, 64], 0.5)).dataSync());
if (value !== 48) throw new Error('expected 48 from a product, got ' + value);
const {binding, isUsingGpuDevice} = tf.backend();
console.log(JSON.stringify({version: binding.TF_Version, gpu: isUsingGpuDevice, milliseconds: performance.now() - started}));`;

/**
 * Multiplies two matrices with the TensorFlow in `folder`. This happens in a separate process, because a library that
 * does not fit may crash it.
 *
 * @throws TfjsLoraError `BACKEND_UNAVAILABLE` with the error of the process
 */
export async function checkTensorFlow(
  folder: string,
  packageName: string,
  execPath: string,
): Promise<TensorFlowCheck> {
  const entry = join(folder, 'node_modules', packageName);
  const stdout = await run(`${packageName}: expected a product`, execPath, [PRODUCT, entry]);
  return JSON.parse(stdout.trim().split('\n').at(-1) as string) as TensorFlowCheck;
}

/** Script that runs the fused ops. In float32 the sigmoid of 64 is 1, and 2 divided by its root mean square is 1. */
const FUSED = `
const {binding, isUsingGpuDevice} = require(process.argv[1]).backend();
const addon = require(process.argv[2]);
const inputs = [64, 2].map((value) => binding.createTensor([16], binding.TF_FLOAT, new Float32Array(16).fill(value)));
const [{id}] = binding.executeOp('TfjsLoraSwiGLU', [], inputs, 1);
const [value] = binding.tensorDataSync(id);
if (value !== 128) throw new Error('expected 128 from SwiGLU, got ' + value);
if (isUsingGpuDevice) {
  addon.useCardFolders(process.argv[3], process.argv[4]);
  const epsilon = {name: 'epsilon', type: binding.TF_ATTR_FLOAT, value: 0};
  const [{id: normed}] = binding.executeOp('TfjsLoraRMSNorm', [epsilon], [inputs[1], inputs[1]], 2);
  const [two] = binding.tensorDataSync(normed);
  if (two !== 2) throw new Error('expected 2 from RMSNorm, got ' + two);
}`;

/**
 * Runs one of the fused ops with TensorFlow in a separate process, and one of the card's ops if TensorFlow uses a card.
 *
 * @param path path of the ops' addon
 * @throws TfjsLoraError `BACKEND_UNAVAILABLE` with the error of the process
 */
export async function checkFusedOps(
  folder: string,
  packageName: string,
  path: string,
  execPath: string,
): Promise<void> {
  const entry = join(folder, 'node_modules', packageName);
  const {kernels, cache} = await cardFolders();
  await run('fused ops: expected one that runs', execPath, [FUSED, entry, path, kernels, cache]);
}

async function run(expected: string, execPath: string, [script, ...args]: string[]): Promise<string> {
  try {
    const {stdout} = await promisify(execFile)(execPath, ['-e', script, ...args], {timeout: 120_000});
    return stdout;
  } catch (error) {
    const {stderr = '', signal, message} = error as {stderr?: string; signal?: string; message: string};
    const said = stderr.split('\n').find((line) => /^\w*Error\b/.test(line));
    throw new TfjsLoraError(
      'BACKEND_UNAVAILABLE',
      `${expected}, got: ${said?.trim() ?? signal ?? message.split('\n')[0]}`,
    );
  }
}
