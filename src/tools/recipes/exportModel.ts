import {existsSync} from 'node:fs';
import {readdir, readFile, realpath, stat} from 'node:fs/promises';
import {basename, join, resolve} from 'node:path';
import {GGUF_FILE_TYPES, type GgufFileType} from '../../../models/gguf/ggufFileType.ts';
import {openModelFolder} from '../../../models/gguf/openModelFolder.ts';
import {ADAPTER_FILE_TYPES, adapterGgufFileName} from '../../../models/gguf/saveAdapterGguf.ts';
import {assertFileType, ggufFileName, ggufTypeOf} from '../../../models/gguf/saveGguf.ts';
import {readJson, readJsonOf} from '../../../models/jsonFile.ts';
import {staleAfterSave, type TensorProgress} from '../../../models/savePretrained.ts';
import {countParameters} from '../../../models/summary.ts';
import {TOKENIZER_FILES} from '../../../models/tokenizerFiles.ts';
import {VALUE_HEAD_FILE} from '../../../models/valueHeadFile.ts';
import {assertStorageDtype} from '../../../quant/assertStorageDtype.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {StorageDtype} from '../../../quant/float16.ts';
import {DiskFolder} from '../../../quant/folders/diskFolder.ts';
import {readText, type WritableFolder} from '../../../quant/folders/folder.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {isOwnModelfile} from '../../data/templates/modelfileOf.ts';
import {getTemplate, MODEL_TEMPLATE} from '../../data/templates/templateRegistry.ts';
import {AutoModelForCausalLM} from '../../training/autoModelForCausalLM.ts';
import {isHubName, isOwnModelCard, type MergedAdapter, modelCard} from './modelCard.ts';
import {useTemplate} from './useTemplate.ts';

/** Number of tensors that are read or written, and of all tensors. */
export interface ExportProgress extends TensorProgress {
  phase: 'loading' | 'saving';
}

export interface ExportArgs {
  /** Folder of the base model, Hugging Face's files in 16 or 32 bits; or a GGUF file, which is dequantized. */
  model: string;
  /** Name of the base in the model card. Default: its folder. */
  modelName?: string;
  /** PEFT folders, merged one after the other. Default none: the base itself is written again. */
  adapters?: string[];
  /** Output folder: new, empty, or one with a model, whose files are replaced. */
  exportDir: string;
  /**
   * What is written: the merged model as Hugging Face's files, or as one GGUF file for llama.cpp; or the only adapter,
   * unmerged, as a GGUF file that llama.cpp adds to the base's. Default `safetensors`.
   */
  format?: 'safetensors' | 'gguf' | 'gguf_adapter';
  /** What the matrices of the GGUF file are stored as. Default: the type of the base; for an adapter `f32`. */
  ggufType?: GgufFileType;
  /** Size of the largest weight file, in GB of 10⁹ bytes. Default 5. A GGUF file is never split. */
  exportSizeGB?: number;
  /** Storage type in which the base is loaded, merged and written. Default: the type of its files. */
  dtype?: StorageDtype;
  /** Template that the adapters were trained with. Default none: the base's tokenizer does not change. */
  template?: string;
  /** System message that replaces the template's own. */
  defaultSystem?: string;
  /** A recipe's quantization of the base. It is refused unless the adapter stays unmerged: merging needs the weights. */
  quantization?: unknown;
  /** Called after each tensor that is read and each one that is written. */
  onProgress?: (progress: ExportProgress) => void;
  /** Stops the export, with the signal's reason as the error; `exportDir` keeps what it had. */
  signal?: AbortSignal;
}
const EXPORT_ARGS = {
  model: true,
  modelName: true,
  adapters: true,
  exportDir: true,
  format: true,
  ggufType: true,
  exportSizeGB: true,
  dtype: true,
  template: true,
  defaultSystem: true,
  quantization: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<ExportArgs>;

export interface ExportResult {
  /** Names of the weight files. */
  files: string[];
  /** Total size of these files in bytes. */
  bytes: number;
  parameters: number;
  /** Type of the merged weights. */
  dtype: StorageDtype;
  /** What the matrices of the GGUF file are stored as. */
  ggufType?: GgufFileType;
}

/** Names of the texts with a model's terms, which may require that they are passed on. */
const TERMS = /^(LICENSE|NOTICE|USE_POLICY)(\.(md|txt))?$/i;

/**
 * Merges adapters into the base they were trained on and writes the result as a folder that transformers, vLLM and
 * llama.cpp load without PEFT: weights in shards, config, generation config, tokenizer, a model card, and the base's
 * terms. With a `template`, the exported model formats conversations with it and stops at its stop words, and the
 * folder has a Modelfile for Ollama. The value head beside the last adapter, or without adapters beside the base, is
 * written too.
 *
 * With the format `gguf`, the weights, the config and the tokenizer are one file, with the base's terms and the
 * Modelfile beside it. The folder may contain files of other types of the same model. With `gguf_adapter`, nothing is
 * merged: the file has the adapter's weights.
 *
 * The result of each merge is rounded to the base's type before the next, as PEFT's `merge_and_unload` does.
 *
 * The folder is complete or has no `config.json`, so a process that is killed meanwhile leaves nothing that loads.
 *
 * @throws TfjsLoraError before anything is written: `UNSUPPORTED` for a quantized base; `INVALID_ARGUMENT` when
 *   `exportDir` is the base's or an adapter's folder, when it holds files that are not a model's, or when
 *   `exportSizeGB` is not positive; and the errors of reading the base and its adapters
 */
export async function exportModel(args: ExportArgs): Promise<ExportResult> {
  assertKnownOptions('exportModel', args, EXPORT_ARGS);
  await assertArgs(args);
  const {model: folder, adapters = [], exportDir, exportSizeGB = 5, dtype, onProgress, signal} = args;
  const isAdapterAlone = args.format === 'gguf_adapter';

  const merged: MergedAdapter[] = [];
  const model = await AutoModelForCausalLM.fromPretrained(folder, {
    dtype,
    signal,
    onProgress: ({tensor, loaded: done, total}) => onProgress?.({phase: 'loading', tensor, done, total}),
  });
  try {
    const {ggufType = isAdapterAlone ? 'f32' : ggufTypeOf(model.storage)} = args;
    const name = basename(args.modelName ?? resolve(folder));
    const gguf = args.format === 'gguf' ? ggufFileName(ggufType) : undefined;
    const modelfile = useTemplate(model, args, gguf && `./${gguf}`);
    for (const path of adapters) {
      await model.loadAdapter(path, {signal});
      if (isAdapterAlone) break;
      merged.push({path, options: model.adapterOptions()});
      model.fuseLoRA({signal});
    }
    const last = adapters.at(-1) ?? folder; // a reward model's head, as in LLaMA-Factory
    if (existsSync(join(last, VALUE_HEAD_FILE))) await model.loadValueHead(last);
    const {total: parameters} = countParameters(model);
    const result = {files: [] as string[], bytes: 0, parameters, dtype: model.storage};
    const target = new DiskFolder(exportDir);
    await target.create();
    const presentModelfile = await readText(target, 'Modelfile');
    const mayReplace = presentModelfile === undefined || isOwnModelfile(presentModelfile);
    const saving = (progress: TensorProgress) => onProgress?.({phase: 'saving', ...progress});
    const writeModelfile = async (draft: WritableFolder) => {
      if (modelfile !== undefined && mayReplace) await draft.write('Modelfile', modelfile);
    };
    if (isAdapterAlone) {
      const type = ggufType as (typeof ADAPTER_FILE_TYPES)[number];
      const file = adapterGgufFileName(type);
      await target.writeTogether(file, async (draft) => {
        const {bytes} = await model.saveAdapterGguf(draft, {type});
        Object.assign(result, {files: [file], bytes, ggufType});
        await copyTerms(folder, draft);
      });
      return result;
    }
    if (gguf !== undefined) {
      await target.writeTogether(gguf, async (draft) => {
        const {bytes} = await model.saveGguf(draft, {type: ggufType, name, onProgress: saving, signal});
        Object.assign(result, {files: [gguf], bytes, ggufType});
        await copyTerms(folder, draft);
        await writeModelfile(draft);
      });
      return result;
    }
    const isStale = staleAfterSave(model);
    await target.writeTogether(
      'config.json',
      async (draft) => {
        await model.save(draft, {
          maxShardBytes: exportSizeGB * 1e9,
          signal,
          onProgress: saving,
        });
        Object.assign(result, await weightFiles(draft.path));
        await writeModelCard(args, merged, {...result, modelType: model.modelType}, draft);
        await copyTerms(folder, draft);
        await writeModelfile(draft);
      },
      (name) => isStale(name) || (name === 'Modelfile' && mayReplace),
    );
    return result;
  } finally {
    model.dispose();
  }
}

/** Checks arguments and folders before anything is read or written. */
async function assertArgs(args: ExportArgs): Promise<void> {
  assertStorageDtype('exportModel dtype', args.dtype);
  const {model: folder, adapters = [], exportDir, exportSizeGB = 5} = args;
  const isAdapterAlone = args.format === 'gguf_adapter';
  if (args.ggufType !== undefined)
    assertFileType(args.ggufType, 'export_gguf_type', isAdapterAlone ? ADAPTER_FILE_TYPES : GGUF_FILE_TYPES);
  if (isAdapterAlone) assertOneAdapter(adapters);
  if (!(exportSizeGB > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `export_size: expected GB above 0 for the largest file, got ${exportSizeGB}`,
    );
  }
  await assertOwnFolder(exportDir, [folder, ...adapters]);
  await assertModelFolder(exportDir);
  if (args.template !== undefined && args.template !== MODEL_TEMPLATE) getTemplate(args.template);
  if (!isAdapterAlone)
    assertUnquantized(args, await readJsonOf(await openModelFolder(folder), 'config.json'));
  for (const path of adapters) await assertAdapterFolder(path);
}

/** Refuses a quantized base: merged into rounded weights, the model would differ from the one that was trained. */
function assertUnquantized(
  {adapters = [], quantization, model}: ExportArgs,
  config: Record<string, unknown>,
): void {
  const inFiles = config.quantization_config != null;
  if (quantization === undefined && !inFiles) return;
  const what = inFiles ? `${resolve(model, 'config.json')} quantization_config` : 'quantization_bit';
  const task =
    adapters.length > 0 ? 'Adapters cannot be merged into a quantized model' : 'Exporting it has no use';
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `export ${what}: expected an unquantized base, got a quantized one. ${task}: name the 16-bit model that it was made ` +
      'from as model_name_or_path, and leave quantization_bit out. An adapter trained on the quantized base (QLoRA) ' +
      'merges into that model. To make the merged model smaller, quantize it afterwards with tfjs-lora quantize.',
  );
}

/** Refuses several adapters for one file: each was trained on the base with those before it merged in. */
function assertOneAdapter(adapters: string[]): void {
  if (adapters.length === 1) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `adapter_name_or_path: expected one adapter for export_format: gguf_adapter, got ${adapters.join(', ') || 'none'}`,
  );
}

async function assertOwnFolder(exportDir: string, sources: string[]): Promise<void> {
  const pathOf = (folder: string) => realpath(folder).catch(() => resolve(folder));
  const target = await pathOf(exportDir);
  for (const source of sources) {
    if ((await pathOf(source)) !== target) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `export_dir ${exportDir}: expected a folder other than the base's and the adapters', got ${source}. ` +
        'Choose another folder, because exporting would overwrite this one.',
    );
  }
}

/** Names of the files in a model's folder besides its config, which an interrupted export has not written yet. */
const OF_A_MODEL =
  /^(\..*|README\.md|Modelfile|generation_config\.json|value_head\.safetensors|(model|adapter)-\w+\.gguf|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?)$/;

/** Refuses a folder with files that are not a model's, because nobody could tell the two apart afterwards. */
async function assertModelFolder(exportDir: string): Promise<void> {
  const names = await readdir(exportDir).catch(() => [] as string[]);
  const others = names.filter(
    (name) => !OF_A_MODEL.test(name) && !TERMS.test(name) && !TOKENIZER_FILES.includes(name),
  );
  if (others.length === 0) return;
  const config = await readJson(join(exportDir, 'config.json')).catch(() => undefined);
  if (typeof config?.model_type === 'string') return;
  const shown = `${others.slice(0, 3).join(', ')}${others.length > 3 ? ' …' : ''}`;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `export_dir ${exportDir}: expected a new or empty folder, or a model's folder to replace, got one with ${shown}. ` +
      'Choose another folder: export_dir=<folder>.',
  );
}

/** Finds missing files of an adapter before the base is read. */
async function assertAdapterFolder(folder: string): Promise<void> {
  await readJson(join(folder, 'adapter_config.json'));
  SafetensorsFile.open(join(folder, 'adapter_model.safetensors')).close();
}

async function weightFiles(folder: string): Promise<Pick<ExportResult, 'files' | 'bytes'>> {
  const files = (await readdir(folder))
    .filter((name) => /^model(-\d+-of-\d+)?\.safetensors$/.test(name))
    .sort();
  const sizes = await Promise.all(files.map(async (name) => (await stat(join(folder, name))).size));
  return {files, bytes: sizes.reduce((sum, size) => sum + size, 0)};
}

/** Writes the model card, unless there is one that a person wrote. */
async function writeModelCard(
  args: ExportArgs,
  adapters: MergedAdapter[],
  result: ExportResult & {modelType: string},
  draft: WritableFolder,
): Promise<void> {
  const present = await readFile(join(args.exportDir, 'README.md'), 'utf8').catch(() => undefined);
  if (present !== undefined && !isOwnModelCard(present)) return;
  const baseCard = await readFile(join(args.model, 'README.md'), 'utf8').catch(() => undefined);
  const {model, modelName = model} = args;
  const names = [modelName, ...adapters.map(({options}) => options.baseModelNameOrPath)];
  const isLocal = await Promise.all(names.map((name) => name !== undefined && isThere(name)));
  const hubName = names.find((name, index) => isHubName(name) && !isLocal[index]);
  const title = hubName ?? basename(resolve(modelName));
  await draft.write('README.md', modelCard({title, hubName, baseCard, adapters, ...result}));
}

const isThere = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

async function copyTerms(from: string, draft: WritableFolder): Promise<void> {
  for (const name of await readdir(from).catch(() => []))
    if (TERMS.test(name)) await draft.write(name, await readFile(join(from, name)));
}
