import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import type {LoRADense} from '../../layers/loraDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {MemoryFolder} from '../../quant/folders/memoryFolder.ts';
import {type FolderTarget, folderToWrite} from '../../quant/folders/openFolder.ts';
import {encodeGgml} from '../../quant/gguf/ggmlType.ts';
import {ggmlType} from '../../quant/gguf/ggmlTypes.ts';
import {type GgufTensor, ggufFile} from '../../quant/gguf/writeGguf.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {toFloat32} from '../../quant/safetensors/toFloat32.ts';
import {show} from '../../quant/show.ts';
import {readJsonOf} from '../jsonFile.ts';
import {changesBase} from '../peft/initialization/changesBase.ts';
import {PEFT_PREFIX} from '../peft/peftPrefix.ts';
import type {SaveAdapterFilesOptions} from '../peft/saveAdapter.ts';
import {ggufArchitectureOf} from './ggufArchitecture.ts';
import type {GgufFileType} from './ggufFileType.ts';
import {GgufMetadata} from './ggufMetadata.ts';
import type {GgufModel} from './ggufModel.ts';
import {permutedRows} from './permutedRows.ts';
import {assertFileType, rotatedHeads, type SaveGgufResult} from './saveGguf.ts';
import {type GgufArchitecture, ggufTensorName} from './tensorNames.ts';

/** The types in which an adapter's matrices can be stored. */
export const ADAPTER_FILE_TYPES = ['f32', 'f16', 'bf16'] as const;

export interface SaveAdapterGgufOptions extends SaveAdapterFilesOptions {
  /** The adapter. Default: the only active one, or `default`. */
  adapterName?: string;
  /** Storage type of the matrices. Default `f32`. */
  type?: (typeof ADAPTER_FILE_TYPES)[number];
  /** Name of the file. Default `adapter-<type>.gguf`. */
  fileName?: string;
}
const SAVE_ADAPTER_GGUF_OPTIONS = {
  adapterName: true,
  type: true,
  fileName: true,
  convertToLoRA: true,
} satisfies OptionNames<SaveAdapterGgufOptions>;

/** A model whose adapters can be written as GGUF files. */
export interface GgufAdapterModel extends GgufModel {
  readonly activeAdapters: readonly string[];
  adaptedLayers(): Map<string, LoRADense>;
  saveAdapter(folder: FolderTarget, adapterName?: string, options?: SaveAdapterFilesOptions): Promise<void>;
}

/** Returns the name of an adapter's file of a type, unless another is given. */
export const adapterGgufFileName = (type: GgufFileType): string => `adapter-${type}.gguf`;

/** Writes an adapter's GGUF file; see `CausalLM.saveAdapterGguf`. */
export async function saveAdapterGguf(
  given: Pick<GgufAdapterModel, 'modelType'>,
  target: FolderTarget,
  options: SaveAdapterGgufOptions = {},
): Promise<SaveGgufResult> {
  assertKnownOptions('saveAdapterGguf', options, SAVE_ADAPTER_GGUF_OPTIONS);
  const {type = 'f32', fileName = adapterGgufFileName(type), convertToLoRA} = options;
  assertFileType(type, 'saveAdapterGguf type', ADAPTER_FILE_TYPES);
  const architecture = ggufArchitectureOf(given.modelType, 'saveAdapterGguf');
  const model = given as GgufAdapterModel; // each of these families has adapters
  const {activeAdapters} = model;
  const {adapterName = activeAdapters.length === 1 ? activeAdapters[0] : DEFAULT_ADAPTER} = options;
  if (model.valueHead)
    refuse(
      adapterName,
      'value head',
      'none, because GGUF stores none',
      'one',
      'Call removeValueHead() first.',
    );
  // PEFT's files describe adapters of every kind completely.
  const peft = new MemoryFolder(new Map());
  await model.saveAdapter(peft, adapterName, {convertToLoRA});
  assertPlain(await readJsonOf(peft, 'adapter_config.json'), adapterName);
  const file = await peft.openSafetensors('adapter_model.safetensors');
  const folder = folderToWrite(target);
  const {alpha, tensors} = tensorsOf(architecture, model, adapterName, file, type.toUpperCase());
  const metadata = new GgufMetadata()
    .text('general.architecture', architecture.name)
    .text('general.type', 'adapter')
    .text('adapter.type', 'lora')
    .number('adapter.lora.alpha', alpha);
  const {byteLength, pieces} = ggufFile(metadata, tensors, folder.pathOf(fileName));
  await folder.create();
  await folder.writePieces(fileName, pieces(), byteLength);
  return {file: fileName, bytes: byteLength, type};
}

const ADVICE = 'Merge it instead: mergeLoRA(), then saveGguf().';

function refuse(adapterName: string, what: string, expected: string, got: unknown, advice = ADVICE): never {
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `saveAdapterGguf "${adapterName}" ${what}: expected ${expected}, got ${show(got)}. ${advice}`,
  );
}

/** Refuses settings that change what A and B mean. */
function assertPlain(config: Record<string, unknown>, adapterName: string): void {
  const {peft_type, use_dora, init_lora_weights: init, layer_replication} = config;
  if (peft_type !== 'LORA')
    refuse(adapterName, 'peft_type', '"LORA", the only kind that GGUF stores', peft_type);
  if (use_dora) refuse(adapterName, 'use_dora', 'false, because GGUF stores no magnitudes', use_dora);
  if (layer_replication) refuse(adapterName, 'layer_replication', 'none', layer_replication);
  if (typeof init === 'string' && changesBase(init)) {
    const advice = 'Pass convertToLoRA: true for PiSSA or OLoRA, or merge it: mergeLoRA(), then saveGguf().';
    refuse(adapterName, 'init_lora_weights', 'an adapter of the unchanged base', init, advice);
  }
}

function tensorsOf(
  architecture: GgufArchitecture,
  model: GgufAdapterModel,
  adapterName: string,
  file: SafetensorsFile,
  typeName: string,
): {alpha: number; tensors: GgufTensor[]} {
  const layers = model.adaptedLayers();
  const type = ggmlType(typeName);
  let alpha: number | undefined;
  const tensors = file.names().map((name): GgufTensor => {
    const [, module, part] = /^(.*)\.lora_([AB])\.weight$/.exec(name.slice(PEFT_PREFIX.length)) ?? [];
    const base = module && ggufTensorName(architecture, `${module}.weight`);
    const layer = module === undefined ? undefined : layers.get(module);
    if (!base || !layer) refuse(adapterName, 'weights', 'only A and B of linear layers', name);
    if (module === 'lm_head' && model.config.tieWordEmbeddings)
      refuse(
        adapterName,
        module,
        'an adapter of layers with a matrix of their own, which a tied head lacks',
        name,
      );
    const {shape, dtype} = file.info(name);
    const rank = part === 'A' ? shape[0] : shape[1];
    // llama.cpp divides one alpha by the rank of each layer.
    const ownAlpha = layer.adapter(adapterName).ownScaling * rank;
    alpha ??= ownAlpha;
    const factor = part === 'B' && Math.abs(ownAlpha / alpha - 1) > 1e-12 ? ownAlpha / alpha : 1;
    const heads = architecture.isPermuted && part === 'B' ? rotatedHeads(name, model.config) : undefined;
    const data = async () => {
      const values = toFloat32(await file.load(name), dtype, name);
      const scaled = factor === 1 ? values : values.map((value) => value * factor);
      const {headDim} = model.config;
      return encodeGgml(
        type,
        heads === undefined ? scaled : permutedRows(scaled, heads, headDim, 'neighbours'),
      );
    };
    return {name: `${base}.lora_${part === 'A' ? 'a' : 'b'}`, type, shape, data};
  });
  if (alpha === undefined) refuse(adapterName, 'weights', 'A and B of linear layers', 'none');
  return {alpha, tensors};
}
