import * as tf from '@tensorflow/tfjs';
import {PEFT_PREFIX} from '../../../models/peft/peftPrefix.ts';
import {isOfValueHead, VALUE_HEAD_FILE} from '../../../models/valueHeadFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {SafetensorsFolder} from '../../../quant/folders/safetensorsFolder.ts';
import type {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {toFloat32} from '../../../quant/safetensors/toFloat32.ts';
import type {TrainableModel} from '../steps/trainableModel.ts';

const ADAPTER = 'adapter_model.safetensors';
/** The config of one of several adapters, which have folders of their own. */
const CONFIG_OF_SEVERAL = /^([^/]+)\/adapter_config\.json$/;
const TRAINED = 'trained_weights.safetensors';

/**
 * Writes what training changed: a PEFT folder for a single adapter, a Hugging Face folder when the model itself trains,
 * each with the value head if the model has one.
 * When neither would store every trained weight exactly (several adapters, or part of a 16-bit model), or the model
 * supports neither, `trained_weights.safetensors` is written as well.
 */
export async function saveTrainedWeights(model: TrainableModel, folder: RunFolder): Promise<void> {
  const names = model.activeAdapters ?? [];
  const parameters = model.trainableParameters();
  const besideHead = [...parameters.keys()].filter((key) => !isOfValueHead(key));
  for (const name of names)
    await model.saveAdapter?.((names.length > 1 ? folder.subfolder(name) : folder).target, name);
  if (names.length === 0) await model.save?.(folder.target);
  const isWhole =
    names.length === 1
      ? onlyAdapter(besideHead) && (await tensorCount(folder)) === besideHead.length // not if a part is frozen
      : names.length === 0 && model.storage === 'float32';
  if (isWhole) {
    await folder.remove(TRAINED); // from an earlier run
    return;
  }
  const tensors = [...parameters].map(([name, variable]) => ({
    name,
    dtype: 'F32' as const,
    shape: variable.shape,
    data: () => variable.data() as Promise<Float32Array>,
  }));
  await folder.writeSafetensors(TRAINED, tensors);
}

const onlyAdapter = (keys: string[]): boolean => keys.every((key) => key.startsWith(PEFT_PREFIX));

async function tensorCount(folder: RunFolder): Promise<number> {
  const file = await folder.openSafetensors(ADAPTER);
  file.close();
  return file.names().length;
}

/**
 * Restores what {@link saveTrainedWeights} wrote. Everything is checked before any weight changes.
 *
 * @throws TfjsLoraError `MISSING_TENSOR`, `UNEXPECTED_TENSOR` or `SHAPE_MISMATCH` when the folder has other trained
 *   weights, `UNKNOWN_ADAPTER` when it has those of adapters with other names
 */
export async function restoreTrainedWeights(model: TrainableModel, folder: RunFolder): Promise<void> {
  const source = await openTrained(model, folder);
  try {
    await assertSameWeights(model, source, folder);
    for (const [name, variable] of model.trainableParameters()) {
      const values = toFloat32(await source.load(name), source.info(name).dtype, name);
      tf.tidy(() => variable.assign(tf.tensor(values, variable.shape, 'float32')));
    }
  } finally {
    source.close();
  }
}

/**
 * Checks trained weights without restoring them; the model's weights need not be allocated.
 *
 * @throws TfjsLoraError as {@link restoreTrainedWeights}
 */
export async function assertRestorable(model: TrainableModel, folder: RunFolder): Promise<void> {
  const source = await openTrained(model, folder);
  try {
    await assertSameWeights(model, source, folder);
  } finally {
    source.close();
  }
}

function shapesOf(model: TrainableModel): Map<string, number[]> {
  if (model.trainableShapes) return model.trainableShapes();
  return new Map([...model.trainableParameters()].map(([name, {shape}]) => [name, shape]));
}

async function assertSameWeights(
  model: TrainableModel,
  source: TrainedFiles,
  folder: RunFolder,
): Promise<void> {
  try {
    assertSameShapes(shapesOf(model), source, folder);
  } catch (error) {
    await assertSameAdapters(model, folder);
    throw error;
  }
}

/**
 * Refuses a model whose active adapters have other names than in a checkpoint. The weights have the names of their
 * adapters where several train together.
 */
async function assertSameAdapters(
  {activeAdapters: active = [], adapterNames = []}: TrainableModel,
  folder: RunFolder,
): Promise<void> {
  const files = await folder.files();
  if (files.includes(ADAPTER)) return; // of the only one; the folders are checkpoints
  const saved = files.flatMap((file) => CONFIG_OF_SEVERAL.exec(file)?.[1] ?? []);
  const missing = saved.filter((name) => !active.includes(name));
  const extra = active.filter((name) => !saved.includes(name));
  if (saved.length === 0 || (missing.length === 0 && extra.length === 0)) return;
  const isRenamed = missing.length === extra.length && !missing.some((name) => adapterNames.includes(name));
  const advice = !isRenamed
    ? `Call setAdapter(${JSON.stringify(saved)}) once the model has them.`
    : missing.length === 1
      ? `If it was renamed, call renameAdapter('${extra[0]}', '${missing[0]}') to resume.`
      : `If they were renamed, call renameAdapter for each of ${extra.join(', ')} to resume.`;
  throw new TfjsLoraError(
    'UNKNOWN_ADAPTER',
    `checkpoint ${folder.fullPath} adapters: expected ${saved.join(', ')} to be active, as in the run, got ` +
      `${active.join(', ') || 'none'}. ${advice}`,
  );
}

function assertSameShapes(expected: Map<string, number[]>, source: TrainedFiles, folder: RunFolder): void {
  for (const [name, shape] of expected) {
    const where = `checkpoint ${folder.fullPath} tensor ${name}`;
    if (!source.has(name)) {
      throw new TfjsLoraError(
        'MISSING_TENSOR',
        `${where}: the model trains this weight, but the checkpoint does not have it. Give the model the adapter of the run.`,
      );
    }
    const got = [...source.info(name).shape];
    if (tf.util.arraysEqual(got, shape)) continue;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${where}: expected [${shape}] as in the model, got [${got}]. Use the adapter settings of the run that saved it.`,
    );
  }
  const extra = source.isTrainedOnly ? source.names().find((name) => !expected.has(name)) : undefined;
  if (extra === undefined) return;
  throw new TfjsLoraError(
    'UNEXPECTED_TENSOR',
    `checkpoint ${folder.fullPath} tensor ${extra}: the model does not train this weight`,
  );
}

/** The files of trained weights in a folder; each weight is read from the first file that has it. */
class TrainedFiles {
  constructor(
    private readonly files: (SafetensorsFile | SafetensorsFolder)[],
    /** Whether all their tensors train. */
    readonly isTrainedOnly: boolean,
  ) {}

  names(): string[] {
    return this.files.flatMap((file) => file.names());
  }

  has(name: string): boolean {
    return this.files.some((file) => file.has(name));
  }

  info(name: string) {
    return this.fileOf(name).info(name);
  }

  load(name: string): Promise<Uint8Array> {
    return this.fileOf(name).load(name);
  }

  close(): void {
    for (const file of this.files) file.close();
  }

  private fileOf(name: string) {
    return this.files.find((file) => file.has(name)) ?? this.files[0];
  }
}

async function openTrained({valueHead}: TrainableModel, folder: RunFolder): Promise<TrainedFiles> {
  if (await folder.has(TRAINED)) return new TrainedFiles([await folder.openSafetensors(TRAINED)], true);
  const isAdapter = await folder.has(ADAPTER);
  const weights = isAdapter
    ? await folder.openSafetensors(ADAPTER)
    : await SafetensorsFolder.fromFolder(folder);
  // The file of a head that does not train is no part of the run's state.
  const hasHead = (await folder.has(VALUE_HEAD_FILE)) && (valueHead?.trainable ?? true);
  return new TrainedFiles(
    hasHead ? [weights, await folder.openSafetensors(VALUE_HEAD_FILE)] : [weights],
    isAdapter,
  );
}

/**
 * Checks that all trained weights are finite.
 *
 * @throws TfjsLoraError `NON_FINITE` naming a trained weight with NaN or infinity
 */
export async function assertFiniteWeights(model: TrainableModel, what: string): Promise<void> {
  for (const [name, variable] of model.trainableParameters()) {
    const allFinite = tf.tidy(() => tf.all(tf.isFinite(variable)));
    const [isSound] = await allFinite.data();
    allFinite.dispose();
    if (isSound) continue;
    throw new TfjsLoraError(
      'NON_FINITE',
      `${what}: expected finite weights, got NaN or infinity in ${name}. ` +
        'Nothing was overwritten. Resume from the last checkpoint with a lower learning rate.',
    );
  }
}
