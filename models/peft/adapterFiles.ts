import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {Folder} from '../../quant/folders/folder.ts';
import type {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {readJsonOf} from '../jsonFile.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import type {TensorProgress} from '../savePretrained.ts';
import {layerClassOf} from './adapterRegistry.ts';
import {assertPatternsEnd} from './assertPatternsEnd.ts';
import {baseChangeOf} from './initLoraWeights.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {parsePeftConfig} from './peftConfig.ts';

/** The names of the files in an adapter's folder. */
export const ADAPTER_FILES = {
  config: 'adapter_config.json',
  weights: 'adapter_model.safetensors',
  pickledWeights: 'adapter_model.bin',
  /** The matrices that an adapter began with, of a kind that no config alone describes. PEFT ignores the file. */
  firstMatrices: 'adapter_initial.safetensors',
} as const;

/** Contents of an adapter's config. */
interface AdapterConfig {
  config: Record<string, unknown>;
  options: LoRAOptions;
  /** Undefined for LoRA, whose adapters fit any class of LoRA that a layer has already. */
  layerClass?: LoRADenseClass;
  /** Change of the base by its initialization. */
  initialized: ReturnType<typeof baseChangeOf>;
  /** The config's path, for messages. */
  where: string;
}

/**
 * Reads the config of a PEFT folder.
 *
 * @param wanted layers for the adapter. Default: those that are registered for its `peft_type`
 */
export async function readAdapterConfig(folder: Folder, wanted?: LoRADenseClass): Promise<AdapterConfig> {
  const config = await readJsonOf(folder, ADAPTER_FILES.config);
  const where = folder.pathOf(ADAPTER_FILES.config);
  const byType = layerClassOf(config.peft_type, where);
  const layerClass = wanted ?? (byType === LoRADense ? undefined : byType);
  const options = parsePeftConfig(config, where, layerClass);
  assertPatternsEnd(options, where);
  const initialized = layerClass ? undefined : baseChangeOf(config, where);
  return {config, options, layerClass, initialized, where};
}

/** Opens the weights of a PEFT folder; the caller closes them. */
export async function openWeights(folder: Folder): Promise<SafetensorsFile> {
  await assertNotPickled(folder);
  return folder.openSafetensors(ADAPTER_FILES.weights);
}

/** Reads all tensors of a file. */
export async function readTensors(
  file: SafetensorsFile,
  {onProgress, signal}: {onProgress?: (progress: TensorProgress) => void; signal?: AbortSignal},
): Promise<Map<string, Uint8Array>> {
  const bytes = new Map<string, Uint8Array>();
  const names = file.names();
  for (const name of names) {
    await letSignalsThrough(signal);
    bytes.set(name, await file.load(name));
    onProgress?.({tensor: name, done: bytes.size, total: names.length});
  }
  return bytes;
}

/** @throws TfjsLoraError `UNSUPPORTED` for a folder with weights only in PyTorch's older format */
async function assertNotPickled(folder: Folder): Promise<void> {
  const {weights, pickledWeights} = ADAPTER_FILES;
  if ((await folder.has(weights)) || !(await folder.has(pickledWeights))) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${folder.pathOf(pickledWeights)}: expected ${weights}, got PyTorch's pickled format, which can run code and is ` +
      'not read here. Convert it, in the folder: python -c "import torch; from safetensors.torch import save_file; ' +
      `w = torch.load('${pickledWeights}', map_location='cpu', weights_only=True); ` +
      `save_file({k: v.contiguous() for k, v in w.items()}, '${weights}', metadata={'format': 'pt'})"`,
  );
}
