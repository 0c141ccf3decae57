import type {LoRADenseClass} from '../../../layers/loraDense.ts';
import type {GradientCheckpointing} from '../../../layers/ops/gradientCheckpointing.ts';
import type {QuantizationType} from '../../../layers/quantizationArgs.ts';
import {ownLayerClass} from '../../../models/peft/adapterRegistry.ts';
import {loraOptions} from '../../../models/peft/loraOptions.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {StorageDtype} from '../../../quant/float16.ts';
import {show} from '../../../quant/show.ts';
import type {ComputeDtype} from '../../training/backends/computeDtype.ts';
import type {LabelLossArgs} from '../../training/losses/labelLoss.ts';
import type {ScheduleArgs, ScheduleName} from '../../training/steps/learningRateSchedule.ts';
import {parseRecipe} from './parseRecipe.ts';
import {argumentsOf, BITSANDBYTES, type RecipeArguments, type RecipeKeys} from './recipeKeys.ts';
import type {Purpose} from './recipeRules.ts';
import {type RecipeSource, readRecipe} from './recipeSource.ts';
import {scheduleOf} from './scheduleOf.ts';

/** The part of the model that trains: an adapter, all weights, or some layers. */
export type Method = 'lora' | 'full' | 'freeze';

/**
 * A checked recipe with this library's names: the arguments that single keys become, and the settings that follow from
 * several keys.
 */
export type Recipe = RecipeArguments & {
  /** The file it was read from. */
  path: string;
  /** Keys in the recipe that have no meaning here, each with the reason. */
  ignored: Map<string, string>;
  tasks: {train: boolean; evaluate: boolean; predict: boolean};
  method: Method;
  model: {
    /** Whether the adapters were given on the command line. */
    adaptersAreArgument: boolean;
    /** Storage type of the matrices. Default: the type of the files. */
    dtype?: StorageDtype;
    /** Type in which large products are multiplied; each backend uses the nearest that it has. */
    computeDtype: ComputeDtype;
    /** How the base is quantized; `doubleQuant` is for 4 bits. */
    quantization?: {type: QuantizationType; doubleQuant?: boolean};
    gradientCheckpointing: GradientCheckpointing;
  };
  /** The model that answers are compared with, stored as the files say unless `bf16` or `fp16` are set. */
  reference: {dtype?: StorageDtype; quantization?: Recipe['model']['quantization']};
  /** The model that scores answers, stored in the same way. */
  rewardModel: {dtype?: StorageDtype; quantization?: Recipe['model']['quantization']};
  /** The adapter's settings; a kind of an extension's has only some of these, and its layer class. */
  lora: {alpha?: number; layerClass?: LoRADenseClass};
  compile: {schedule: {name: ScheduleName} & ScheduleArgs};
  /** Loss of the labels. Default: cross-entropy. */
  labelLoss?: LabelLossArgs;
  fit: {evaluationSteps: number; seed: number};
};

/**
 * Reads a recipe and checks its keys, alone and together.
 *
 * @param path a YAML or JSON file
 * @param overrides `key=value`, which override the file
 * @param purpose `run` checks everything its tasks need, `use` only what its model and data need. Default `run`
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export async function loadRecipe(
  path: string,
  overrides: readonly string[] = [],
  purpose: Purpose = 'run',
): Promise<Recipe> {
  if (typeof path !== 'string' || !Array.isArray(overrides)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `loadRecipe: expected a path and a list of overrides, got ${show(path)}, ${show(overrides)}. ` +
        "Write loadRecipe('recipe.yaml', ['lora_rank=16']).",
    );
  }
  return resolveRecipe(await readRecipe(path, overrides), path, purpose);
}

/**
 * Checks a recipe's keys and converts them to this library's names.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export function resolveRecipe(source: RecipeSource, path: string, purpose: Purpose = 'run'): Recipe {
  const {keys, ignored} = parseRecipe(source, purpose);
  const dtype = keys.bf16 || keys.pure_bf16 ? 'bfloat16' : keys.fp16 ? 'float16' : undefined;
  const args = argumentsOf(keys);
  const layerClass = ownLayerClass(keys.finetuning_type);
  const method = layerClass ? 'lora' : (keys.finetuning_type as Method);
  return {
    ...args,
    path,
    ignored,
    tasks: {
      train: keys.do_train,
      evaluate: keys.do_eval || keys.eval_strategy !== 'no',
      predict: keys.do_predict,
    },
    method,
    model: {
      ...args.model,
      adaptersAreArgument: source.isArgument('adapter_name_or_path'),
      dtype: keys.do_train && method !== 'lora' ? 'float32' : dtype, // only float32 trains
      computeDtype: dtype ?? 'float32',
      quantization: quantizationOf(keys, keys.quantization_bit),
      gradientCheckpointing: keys.use_unsloth_gc ? 'offload' : !keys.disable_gradient_checkpointing,
    },
    reference: {
      ...args.reference,
      dtype,
      quantization: quantizationOf(keys, keys.ref_model_quantization_bit),
    },
    rewardModel: {
      ...args.rewardModel,
      dtype,
      quantization: quantizationOf(keys, keys.reward_model_quantization_bit),
    },
    lora: layerClass
      ? {...onlyOptions(args.lora, layerClass), layerClass}
      : {...args.lora, alpha: keys.lora_alpha ?? 2 * keys.lora_rank},
    data: {...args.data, packing: keys.neat_packing || keys.packing},
    compile: {
      ...args.compile,
      schedule: scheduleOf(keys.lr_scheduler_type, keys.lr_scheduler_kwargs, keys.learning_rate),
    },
    labelLoss: labelLossOf(keys),
    optimizer: {...args.optimizer, ...(keys.use_muon && {name: 'muon'})},
    fit: {
      ...args.fit,
      evaluationSteps: keys.eval_steps ?? keys.logging_steps,
      seed: keys.data_seed ?? keys.seed,
    },
  };
}

/** Returns those of the options that a kind of adapter has; a rule refuses the others where they were given. */
function onlyOptions(lora: RecipeArguments['lora'], {adapterClass}: LoRADenseClass): RecipeArguments['lora'] {
  const known = loraOptions(adapterClass.fields);
  return Object.fromEntries(
    Object.entries(lora).filter(([name]) => name in known),
  ) as RecipeArguments['lora'];
}

function labelLossOf(keys: RecipeKeys): LabelLossArgs | undefined {
  if (keys.use_dft_loss) return {type: 'dft'};
  if (keys.use_asft_loss) return {type: 'asft', alpha: keys.asft_alpha};
  if (keys.use_eaft_loss) return {type: 'eaft', alpha: keys.eaft_alpha};
  return keys.label_smoothing_factor > 0 ? {type: 'smoothed', alpha: keys.label_smoothing_factor} : undefined;
}

function quantizationOf(keys: RecipeKeys, bits: 4 | 8 | undefined): Recipe['model']['quantization'] {
  const {quantization_method: method} = keys;
  if (bits === undefined) return undefined;
  if (!BITSANDBYTES.includes(method)) return {type: method};
  if (bits === 8) return {type: 'int8', doubleQuant: false};
  return {type: keys.quantization_type, doubleQuant: keys.double_quantization};
}
