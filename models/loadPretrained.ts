import {basename, dirname} from 'node:path';
import {type Parameter, withoutAllocation} from '../layers/parameter.ts';
import type {QuantizationType} from '../layers/quantizationArgs.ts';
import {assertStorageDtype} from '../quant/assertStorageDtype.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {DiskFolder} from '../quant/folders/diskFolder.ts';
import type {Folder} from '../quant/folders/folder.ts';
import type {FolderSource} from '../quant/folders/openFolder.ts';
import {didYouMeanPath} from '../quant/folders/similarPath.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {warn} from '../quant/warn.ts';
import {type GenerationConfig, readGenerationConfig} from './generationConfig.ts';
import {openModelFolder} from './gguf/openModelFolder.ts';
import {readJsonOf} from './jsonFile.ts';
import {
  assertFilesHold,
  assertTensors,
  type LoadWeightsOptions,
  loadWeights,
  storageOf,
} from './loadWeights.ts';
import type {ModelClass} from './modelClass.ts';
import {ModelTensors} from './modelTensors.ts';
import {type QuantizationOptions, resolveQuantizationOptions} from './quantization.ts';
import {declareQuantization, parseQuantizationConfig} from './quantizationConfig.ts';
import type {LayeredModel} from './replaceLayer.ts';
import {Tokenizer} from './tokenizer.ts';
import {warnOfUnchosenBackend} from './warnOfUnchosenBackend.ts';

export interface LoadOptions extends LoadWeightsOptions {
  /** Storage type of the matrices. Default: as in the file, so a bfloat16 model stays 16-bit. */
  dtype?: StorageDtype;
  /**
   * Quantization of the linear layers while they load (QLoRA). A type alone, such as `'nf4'`, is short for `{type}`.
   * Default: as in the folder's `quantization_config`, if it has one.
   */
  quantization?: QuantizationOptions | QuantizationType;
  /** Name of the GGUF file to load, for a folder with several, or one beside safetensors. */
  ggufFile?: string;
  /** Whether to read the weights. With false, they are only declared, for counting; using them throws. Default true. */
  allocate?: boolean;
}
const LOAD_OPTIONS = {
  dtype: true,
  quantization: true,
  ggufFile: true,
  allocate: true,
  checkFinite: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<LoadOptions>;

/** The part of a model that loading needs: its weights, and fields for the other files. */
export interface PretrainedModel extends LayeredModel {
  nameOrPath: string;
  generationConfig: GenerationConfig;
  tokenizer?: Tokenizer;
  namedParameters(): Map<string, Parameter>;
  dispose(): unknown;
}

/** Says what to do about a path that is no folder: that of a file in a model's folder, a name on the hub, or a slip. */
async function adviceForMissing(source: FolderSource, folder: Folder): Promise<string> {
  const {path} = folder;
  if (folder instanceof DiskFolder && (await new DiskFolder(dirname(path)).has('config.json')))
    return `Pass the folder of the model, ${dirname(path)}.`;
  const download = 'Download the model first (config.json, *.safetensors, tokenizer files)';
  const isHubId = typeof source === 'string' && /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(source);
  const command = isHubId ? `: npx tfjs-lora download ${source} ${basename(source)}. Then pass` : ' and pass';
  return `${download}${command} its folder, or a GGUF file.${didYouMeanPath(path)}`;
}

/**
 * Loads a Hugging Face folder; see `CausalLM.fromPretrained`.
 *
 * @param classFor returns the model class for the contents of a `config.json`; `where` names the file in errors
 */
export async function loadPretrained<M extends PretrainedModel>(
  classFor: (json: Record<string, unknown>, where: string) => ModelClass<M>,
  source: FolderSource,
  options: LoadOptions = {},
): Promise<M> {
  assertKnownOptions('fromPretrained', options, LOAD_OPTIONS);
  assertStorageDtype('fromPretrained dtype', options.dtype);
  const wanted =
    options.quantization === undefined
      ? undefined
      : resolveQuantizationOptions('fromPretrained quantization', options.quantization);
  options.signal?.throwIfAborted();
  const folder = await openModelFolder(source, options.ggufFile);
  if (!(await folder.exists())) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `model folder ${folder.pathOf('')}: expected a Hugging Face folder, got nothing there. ` +
        (await adviceForMissing(source, folder)),
    );
  }
  const where = folder.pathOf('config.json');
  const json = await readJsonOf(folder, 'config.json');
  const Model = classFor(json, where);
  let config = Model.parseConfig(json, where);
  const stored = parseQuantizationConfig(json.quantization_config, where);
  const files = await ModelTensors.fromFolder(
    folder,
    config.tieWordEmbeddings === true,
    (json.quantization_config ?? undefined) as Record<string, unknown> | undefined,
  );
  let model: M | undefined;
  try {
    if (config.tieWordEmbeddings && (await files.hasOwnHead())) {
      config = {...config, tieWordEmbeddings: false};
      warn(
        `${where} tie_word_embeddings: expected false, got true, but the weights hold an lm_head.weight that differs ` +
          'from the embedding. The head is loaded and saved untied, as in transformers 5.',
      );
    }
    assertFilesHold(Model.parameterCount(config as never), files, where);
    if (options.allocate !== false) await warnOfUnchosenBackend();
    model = withoutAllocation(() => new Model(config as never, options.dtype ?? storageOf(files)));
    declareQuantization(model, files, stored, wanted, where);
    model.nameOrPath = folder.path;
    const parameters = model.namedParameters();
    if (options.allocate === false) assertTensors(parameters, files);
    else await loadWeights(parameters, files, options);
    model.generationConfig = await readGenerationConfig(folder, {
      bosTokenId: config.bosTokenId,
      eosTokenId: config.eosTokenId,
      padTokenId: config.padTokenId,
    });
    if (await folder.has('tokenizer.json')) {
      model.tokenizer = await Tokenizer.fromFolder(folder);
      model.tokenizer.assertFits(config.vocabSize, {allowAdded: true});
    }
    return model;
  } catch (error) {
    model?.dispose();
    throw error;
  } finally {
    files.close();
  }
}
