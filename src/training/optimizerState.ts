import {resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../quant/safetensors/writeSafetensors.ts';

const DTYPES = {float32: 'F32', int32: 'I32', bool: 'BOOL'} as const;
const ARRAYS = {F32: Float32Array, I32: Int32Array, BOOL: Uint8Array} as const;
/** Marks scalars that TensorFlow.js's optimizers keep beside their weights. */
const SCALAR = '.';

/**
 * Writes an optimizer's state, bit for bit: what `getWeights` gives, in that order, and the running products that
 * TensorFlow.js's Adam and Adamax keep in variables of their own.
 */
export async function saveOptimizer(optimizer: tf.Optimizer, path: string): Promise<void> {
  const weights = await optimizer.getWeights();
  const scalars = [...scalarsOf(optimizer)].map(([name, tensor]) => ({name: `${SCALAR}${name}`, tensor}));
  const named = [...weights, ...scalars].map(({name, tensor}, i) => ({
    name: `${i}:${name}`,
    dtype: DTYPES[tensor.dtype as keyof typeof DTYPES],
    shape: tensor.shape,
    data: () => tensor.data() as Promise<Float32Array>,
  }));
  try {
    await writeSafetensors(path, named);
  } finally {
    weights[0]?.tensor.dispose(); // the count of steps is the caller's
  }
}

/**
 * Puts back what {@link saveOptimizer} wrote.
 *
 * @throws TfjsLoraError when it does not fit the optimizer
 */
export async function loadOptimizer(optimizer: tf.Optimizer, path: string): Promise<void> {
  const file = SafetensorsFile.open(path);
  const tensors: tf.Tensor[] = [];
  try {
    const entries = file.names().map((key) => {
      const [, index, name] = /^(\d+):(.*)$/s.exec(key) ?? [];
      const tensor = readTensor(file, key);
      tensors.push(tensor);
      return {index: Number(index), name, tensor};
    });
    entries.sort((a, b) => a.index - b.index);
    await optimizer.setWeights(entries.filter(({name}) => !name.startsWith(SCALAR)));
    // After setWeights, which computes them anew and rounds otherwise.
    for (const [name, variable] of scalarsOf(optimizer)) {
      const saved = entries.find((entry) => entry.name === `${SCALAR}${name}`);
      if (saved) variable.assign(saved.tensor);
    }
  } catch (cause) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `optimizer state ${resolve(path)}: expected the state of a ${optimizer.getClassName()} for these weights, ` +
        `got: ${(cause as Error).message}`,
      {cause},
    );
  } finally {
    tf.dispose(tensors);
    file.close();
  }
}

function readTensor(file: SafetensorsFile, key: string): tf.Tensor {
  const {dtype, shape} = file.info(key);
  const [kind] = Object.entries(DTYPES).find(([, name]) => name === dtype) ?? [];
  const {buffer} = file.read(key).slice(); // aligned
  const values = new ARRAYS[dtype as keyof typeof ARRAYS](buffer);
  return tf.tensor(values, [...shape], kind as keyof typeof DTYPES);
}

function scalarsOf(optimizer: tf.Optimizer): Map<string, tf.Variable> {
  const own = Object.entries(optimizer) as [string, unknown][];
  return new Map(
    own.filter(
      (entry): entry is [string, tf.Variable] => entry[1] instanceof tf.Variable && entry[1].size === 1,
    ),
  );
}
