import {LoRAAdapter, settingsOfRank} from '../../layers/loraAdapter.ts';
import {type LoRASettings, loraSettings} from '../../layers/loraFields.ts';
import type {Parameter} from '../../layers/parameter.ts';
import {assertFinite} from '../../quant/assertFinite.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {type FolderSource, openFolder} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {toFloat32} from '../../quant/safetensors/toFloat32.ts';
import {show} from '../../quant/show.ts';
import {assertIdle, type BusyModel} from '../assertIdle.ts';
import {openWeights, readAdapterConfig, readTensors} from './adapterFiles.ts';
import type {AdapterSet} from './adapterSet.ts';
import {layerArgs} from './layerArgs.ts';
import type {LoadAdapterOptions} from './loadAdapter.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

export interface HotswapAdapterOptions extends Pick<LoadAdapterOptions, 'onProgress' | 'signal'> {
  /** Name of the adapter whose weights are replaced. Default: the only active adapter, or `default`. */
  adapterName?: string;
}
export const HOTSWAP_ADAPTER_OPTIONS = {
  adapterName: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<HotswapAdapterOptions>;

export interface PrepareHotswapOptions {
  /** Rank to pad the adapter's matrices to: the largest of the adapters that will replace it. */
  targetRank: number;
  /** Name of the adapter. Default: the only active adapter, or `default`. */
  adapterName?: string;
}
export const PREPARE_HOTSWAP_OPTIONS = {
  targetRank: true,
  adapterName: true,
} satisfies OptionNames<PrepareHotswapOptions>;

/** New matrices and settings of an adapter in one layer. */
interface Swap {
  adapter: LoRAAdapter;
  settings: LoRASettings;
  values: Map<Parameter, Float32Array>;
  /** Whether the file has less for the layer. */
  isPadded: boolean;
}

/** Replaces an adapter's weights and settings with another's; see `hotswapAdapter` of a model. */
export async function hotswapAdapter(
  model: BusyModel,
  adapters: AdapterSet,
  source: FolderSource,
  given: HotswapAdapterOptions = {},
): Promise<void> {
  assertKnownOptions('hotswapAdapter', given, HOTSWAP_ADAPTER_OPTIONS);
  const {adapterName = adapters.sole('hotswapAdapter'), ...watch} = given;
  watch.signal?.throwIfAborted();
  const old = adapters.options(adapterName);
  const folder = openFolder(source);
  const {config, options, initialized, where} = await readAdapterConfig(folder, old.layerClass);
  const file = await openWeights(folder);
  try {
    if (initialized)
      throw refused(`${where} init_lora_weights`, 'one that leaves the base as it is', initialized.method);
    for (const key of ['useDoRA', 'loraBias'] as const) {
      const [expected, got] = [old[key] ?? false, options[key] ?? false];
      if (expected !== got) throw refused(`${where} ${key}`, `${expected}, as in "${adapterName}"`, got);
    }
    const [expected, got] = [old, options].map(({layerReplication}) => show(layerReplication ?? 'none'));
    if (expected !== got)
      throw refused(`${where} layer_replication`, `${expected}, as in "${adapterName}"`, got);
    const bytes = await readTensors(file, watch);
    assertIdle(model, 'hotswapAdapter'); // a training may have begun while the files were read
    const placed = swappable('hotswapAdapter', adapters, adapterName);
    const swaps = swapsOf(placed, options, file, bytes);
    for (const {adapter, settings, values} of swaps) {
      adapter.settings = settings;
      for (const [parameter, numbers] of values) parameter.overwrite(numbers);
    }
    const isAsInFile = swaps.every(({isPadded}) => !isPadded);
    const own = isAsInFile ? options : optionsOf(placed, options);
    const loadedFrom = isAsInFile ? {config, baseWeights: new Map()} : undefined;
    adapters.replace(adapterName, {...own, adapterName, layerClass: old.layerClass}, loadedFrom);
  } finally {
    file.close();
  }
}

/** Pads the matrices of an adapter; see `prepareHotswap` of a model. */
export function prepareHotswap(adapters: AdapterSet, given: PrepareHotswapOptions): void {
  assertKnownOptions('prepareHotswap', given, PREPARE_HOTSWAP_OPTIONS);
  const {targetRank, adapterName = adapters.sole('prepareHotswap')} = given;
  const old = adapters.options(adapterName);
  const placed = swappable('prepareHotswap', adapters, adapterName);
  const largest = Math.max(...[...placed.values()].map(({settings}) => settings.rank));
  if (!Number.isInteger(targetRank) || targetRank < largest) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `prepareHotswap targetRank: expected a whole number from ${largest}, the rank of "${adapterName}", got ${show(targetRank)}`,
    );
  }
  if ([...placed.values()].every(({settings}) => settings.rank === targetRank)) return;
  for (const adapter of placed.values()) adapter.padTo(targetRank);
  adapters.replace(adapterName, {...optionsOf(placed, old), adapterName, layerClass: old.layerClass});
}

/**
 * Returns an adapter in each of its layers, if it consists of low-rank matrices alone.
 *
 * @param call for messages
 */
function swappable(call: string, adapters: AdapterSet, adapterName: string): Map<string, LoRAAdapter> {
  const what = `${call} "${adapterName}"`;
  if (adapters.merging.isMerged) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what}: expected unmerged weights. Call unmergeLoRA() first.`,
    );
  }
  const {bias = 'none'} = adapters.options(adapterName);
  if (bias !== 'none') throw refused(what, 'bias none', bias);
  const {method = ''} = adapters.initialized(adapterName) ?? {};
  const changed =
    adapters.baseChangedBy !== undefined || (adapters.loadedFrom(adapterName)?.baseWeights.size ?? 0) > 0;
  if (changed) throw refused(what, 'an adapter that left the base as it is', method || 'one that changed it');
  const placed = new Map<string, LoRAAdapter>();
  for (const [layerName, {adapters: byName}] of adapters.layers()) {
    const adapter = byName.get(adapterName);
    if (!adapter) continue;
    const isLowRank = adapter instanceof LoRAAdapter && adapter.ownsParameters && adapter.isPlain;
    if (!isLowRank)
      throw refused(what, 'low-rank matrices alone', `${adapter.constructor.name} of ${layerName}`);
    placed.set(layerName, adapter);
  }
  return placed;
}

function refused(what: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `${what}: expected ${expected}, got ${show(got)}. Use deleteAdapter and loadAdapter instead.`,
  );
}

/**
 * Reads what each layer gets. An adapter without a layer adds nothing there, as in PEFT; with DoRA it must have all, for
 * magnitudes have no value that adds nothing.
 */
function swapsOf(
  placed: Map<string, LoRAAdapter>,
  options: LoRAOptions,
  file: SafetensorsFile,
  bytes: Map<string, Uint8Array>,
): Swap[] {
  const unread = new Set(file.names());
  const argsFor = layerArgs(options);
  const swaps = [...placed].map(([layerName, adapter]): Swap => {
    const keys = [...adapter.parameters].map(([key, parameter]) => ({
      parameter,
      name: `${PEFT_PREFIX}${layerName}.${key}`,
    }));
    if (!adapter.magnitude && !keys.some(({name}) => file.has(name))) {
      const zeros = [adapter.loraA, adapter.loraB, adapter.bias].filter(
        (parameter) => parameter !== undefined,
      );
      return {
        adapter,
        settings: adapter.settings,
        values: new Map(zeros.map((parameter) => [parameter, new Float32Array(parameter.size)])),
        isPadded: true,
      };
    }
    const args = loraSettings(argsFor(layerName));
    const values = new Map<Parameter, Float32Array>();
    for (const {name, parameter} of keys) {
      unread.delete(name);
      values.set(parameter, paddedValues(name, parameter, adapter, args.rank, file, bytes));
    }
    const [rank] = adapter.loraA.logicalShape;
    const isPadded = args.rank < rank;
    const ofRank = isPadded ? settingsOfRank(rank, args) : {};
    return {adapter, values, isPadded, settings: {...adapter.settings, ...args, ...ofRank}};
  });
  const [unexpected] = unread;
  if (unexpected !== undefined) {
    throw new TfjsLoraError(
      'UNEXPECTED_TENSOR',
      `tensor ${unexpected} (${file.path}): expected only weights that the replaced adapter has, got another. ` +
        'Use deleteAdapter and loadAdapter instead.',
    );
  }
  return swaps;
}

/** Returns a file's values for a weight, with zeros up to the rank that the weight has. */
function paddedValues(
  name: string,
  parameter: Parameter,
  {loraA, loraB}: LoRAAdapter,
  rank: number,
  file: SafetensorsFile,
  bytes: Map<string, Uint8Array>,
): Float32Array {
  const where = `tensor ${name} (${file.path})`;
  if (!file.has(name))
    throw new TfjsLoraError('MISSING_TENSOR', `${where}: expected it beside the layer's others, got none`);
  const [rows, cols] = parameter.logicalShape;
  const expected =
    parameter === loraA ? [rank, cols] : parameter === loraB ? [rows, rank] : parameter.logicalShape;
  const {shape, dtype} = file.info(name);
  const isRight = shape.length === expected.length && shape.every((size, axis) => size === expected[axis]);
  if (!isRight) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${where}: expected [${expected.join(', ')}], got [${shape.join(', ')}]`,
    );
  }
  const room = loraA.logicalShape[0];
  if (rank > room) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${where}: expected a rank up to ${room}, got ${rank}. Call prepareHotswap({targetRank: ${rank}}) first.`,
    );
  }
  const values = toFloat32(bytes.get(name)!, dtype, where);
  assertFinite(values, where);
  if (rank === room || (parameter !== loraA && parameter !== loraB)) return values;
  const padded = new Float32Array(parameter.size);
  if (parameter === loraA) padded.set(values);
  else
    for (let row = 0; row < rows; row++)
      padded.set(values.subarray(row * rank, (row + 1) * rank), row * cols);
  return padded;
}

/** Returns the options of an adapter whose layers have other ranks than its file or its first options say. */
function optionsOf(placed: Map<string, LoRAAdapter>, options: LoRAOptions): LoRAOptions {
  const settings = [...placed].map(([name, adapter]) => [name, adapter.settings] as const);
  const [, {rank, alpha}] = settings[0];
  const others = (key: 'rank' | 'alpha', common: number) =>
    Object.fromEntries(
      settings
        .filter(([, own]) => own[key] !== common)
        .map(([name, own]) => [name.replaceAll('.', '\\.'), own[key]]),
    );
  return {
    ...options,
    rank,
    alpha,
    rankPattern: others('rank', rank),
    alphaPattern: others('alpha', alpha),
    targetModules: [...placed.keys()],
    excludeModules: undefined,
    layersToTransform: undefined,
    layersPattern: undefined,
    targetParameters: undefined,
  };
}
