import {basename, dirname} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {DiskFolder} from '../../../quant/folders/diskFolder.ts';
import type {Folder} from '../../../quant/folders/folder.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import type {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {DEFAULT_METADATA} from '../../../quant/safetensors/writeSafetensors.ts';
import {NamedStateOptimizer, type StateEntry} from './namedStateOptimizer.ts';

/** The tensor with the number of steps, by TensorFlow.js's name. */
const ITERATIONS = 'iter';

/**
 * Prefix of scalars that TensorFlow.js's Adam and Adamax keep beside their weights: running products of their decays.
 */
const SCALAR = '.';

/** Safetensors names of the dtypes that a state may have. */
const DTYPES = {float32: 'F32', int32: 'I32'} as const;

/**
 * Writes an optimizer's number of steps and all its state to a safetensors file for {@link loadOptimizer}. This works
 * for the optimizers of this library and TensorFlow.js's own. Tensors are written one by one, and a paged optimizer's
 * state is not moved to the device. The file gets its name only when it is complete.
 *
 * @param folder the folder that `path` names a file of. Default: `path` is one on disk
 * @throws TfjsLoraError `INVALID_ARGUMENT` when a state cannot be written
 */
export async function saveOptimizer(
  optimizer: tf.Optimizer,
  path: string,
  folder?: RunFolder,
): Promise<void> {
  const entries = await entriesOf(optimizer);
  const tensors = entries.map(({name, shape, dtype, read}) => ({
    name,
    dtype: DTYPES[dtype],
    shape,
    data: read,
  }));
  const counted = {
    name: ITERATIONS,
    dtype: DTYPES.int32,
    shape: [],
    data: () => Int32Array.of(optimizer.iterations),
  };
  const [place, name] = folder ? [folder, path] : onDisk(path);
  await place.writeSafetensors(name, [counted, ...tensors], {
    ...DEFAULT_METADATA,
    optimizer: optimizer.getClassName(),
    config: JSON.stringify(optimizer.getConfig()),
    order: JSON.stringify(entries.map(({name}) => name)), // TensorFlow.js's own find their state by position
  });
}

/**
 * Restores what {@link saveOptimizer} wrote into an optimizer that was made with the same settings, which then
 * continues as the saved one would have. Its settings (learning rate, decay …) stay unchanged. Files of paged and
 * unpaged optimizers are interchangeable; those of 8 and 32 bits are not.
 *
 * @param folder the folder that `path` names a file of. Default: `path` is one on disk
 * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `INVALID_ARGUMENT`, `MISSING_TENSOR`, `SHAPE_MISMATCH` when
 *   the file is invalid or does not fit optimizer and variables; the optimizer is unchanged then
 */
export async function loadOptimizer(optimizer: tf.Optimizer, path: string, folder?: Folder): Promise<void> {
  const [place, name] = folder ? [folder, path] : onDisk(path);
  const file = await place.openSafetensors(name);
  try {
    const order = orderOf(file);
    const [iterations] = await readValues(file, ITERATIONS);
    const entries = order.map((name): StateEntry => {
      const {dtype, shape} = file.info(name);
      return {
        name,
        shape: [...shape],
        dtype: dtype === DTYPES.int32 ? 'int32' : 'float32',
        read: () => readValues(file, name),
      };
    });
    if (optimizer instanceof NamedStateOptimizer) await optimizer.setState(iterations, entries);
    else await setWeights(optimizer, file, iterations, entries);
  } finally {
    file.close();
  }
}

const onDisk = (path: string): [folder: DiskFolder, name: string] => [
  new DiskFolder(dirname(path)),
  basename(path),
];

async function entriesOf(optimizer: tf.Optimizer): Promise<StateEntry[]> {
  if (optimizer instanceof NamedStateOptimizer) return optimizer.stateEntries();
  const [iterations, ...weights] = await optimizer.getWeights();
  iterations.tensor.dispose();
  const scalars = [...scalarsOf(optimizer)].map(([name, tensor]) => ({name: `${SCALAR}${name}`, tensor}));
  return [...weights, ...scalars].map(({name, tensor}) => ({
    name,
    shape: tensor.shape,
    dtype: tensor.dtype as StateEntry['dtype'],
    read: () => tensor.data() as ReturnType<StateEntry['read']>,
  }));
}

function scalarsOf(optimizer: tf.Optimizer): Map<string, tf.Variable> {
  const own = Object.entries(optimizer) as [string, unknown][];
  return new Map(
    own.filter(
      (entry): entry is [string, tf.Variable] => entry[1] instanceof tf.Variable && entry[1].size === 1,
    ),
  );
}

async function setWeights(
  optimizer: tf.Optimizer,
  {path, metadata}: SafetensorsFile,
  iterations: number,
  entries: StateEntry[],
): Promise<void> {
  if (metadata.optimizer !== optimizer.getClassName()) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `optimizer file [${path}]: expected the state of ${optimizer.getClassName()}, got that of ${metadata.optimizer}`,
    );
  }
  const tensors: {name: string; tensor: tf.Tensor}[] = [];
  try {
    tensors.push({name: ITERATIONS, tensor: tf.scalar(iterations, 'int32')});
    for (const {name, shape, dtype, read} of entries) {
      tensors.push({name, tensor: tf.tensor(await read(), shape, dtype)});
    }
    const isScalar = ({name}: {name: string}) => name.startsWith(SCALAR);
    await optimizer.setWeights(tensors.filter((each) => !isScalar(each)));
    // After setWeights, which recomputes them with other rounding.
    const scalars = scalarsOf(optimizer);
    for (const {name, tensor} of tensors.filter(isScalar))
      scalars.get(name.slice(SCALAR.length))?.assign(tensor);
  } finally {
    tf.dispose(tensors.map(({tensor}) => tensor));
  }
}

/** Returns the names of the state tensors, in the optimizer's order. */
function orderOf({path, metadata, tensors}: SafetensorsFile): string[] {
  const wrong = (got: string) =>
    new TfjsLoraError(
      'CORRUPT_FILE',
      `optimizer file [${path}]: expected a file from saveOptimizer, got ${got}`,
    );
  if (metadata.order === undefined || !tensors.has(ITERATIONS)) throw wrong('a file without its metadata');
  const known = Object.values<string>(DTYPES);
  for (const [name, {dtype}] of tensors) if (!known.includes(dtype)) throw wrong(`${name} in ${dtype}`);
  let order: unknown;
  try {
    order = parseJson(metadata.order);
  } catch {
    throw wrong('a list of tensors that is not JSON');
  }
  const others = [...tensors.keys()].filter((name) => name !== ITERATIONS).sort(compareNames);
  const listed = Array.isArray(order) ? [...order].sort(compareNames) : [];
  if (listed.length === others.length && listed.every((name, i) => name === others[i]))
    return order as string[];
  throw wrong('tensors that differ from its list');
}

/** Orders strings; anything else that a damaged file lists equals everything. */
const compareNames = (a: unknown, b: unknown): number =>
  typeof a === 'string' && typeof b === 'string' ? (a < b ? -1 : Number(a > b)) : 0;

async function readValues(file: SafetensorsFile, name: string): Promise<Float32Array | Int32Array> {
  const {buffer} = await file.load(name);
  return file.info(name).dtype === DTYPES.int32 ? new Int32Array(buffer) : new Float32Array(buffer);
}
