import type {Checkpointing} from '../../../layers/ops/checkpoint.ts';
import type {StorageDtype} from '../../../quant/float16.ts';
import type {ComputeDtype} from '../../training/backends/computeDtype.ts';
import type {ScheduleArgs, ScheduleName} from '../../training/steps/learningRateSchedule.ts';
import {Faults} from './faults.ts';
import {parseRecipe} from './parseRecipe.ts';
import {argumentsOf, REPORTS, type RecipeArguments, type RecipeKeys} from './recipeKeys.ts';
import {type RecipeSource, readRecipe} from './recipeSource.ts';
import {scheduleFault, scheduleOf} from './scheduleOf.ts';

/** What trains: an adapter, all weights, or some layers. */
export type Method = 'lora' | 'full' | 'freeze';

/**
 * What a recipe asks for, checked, in this library's words: the arguments that its keys become one by one, and what follows
 * from several keys.
 */
export type Recipe = RecipeArguments & {
  /** The file it was read from. */
  path: string;
  /** Keys that were written and mean nothing here, with the reason. */
  ignored: Map<string, string>;
  tasks: {train: boolean; evaluate: boolean; predict: boolean};
  method: Method;
  model: {
    /** They were named on the command line. */
    adaptersAreArgument: boolean;
    /** Storage type of the matrices; undefined: as in the files. */
    dtype?: StorageDtype;
    /** What large products are multiplied in; each backend takes the nearest it has. */
    computeDtype: ComputeDtype;
    quantization?: {type: 'nf4' | 'fp4' | 'int8'; doubleQuant: boolean};
    gradientCheckpointing: Checkpointing;
  };
  lora: {alpha: number};
  compile: {schedule: {name: ScheduleName} & ScheduleArgs};
  fit: {evaluationSteps: number; seed: number};
};

/** What a recipe is read for: to run its tasks, or to use its model, data and settings otherwise. */
export type Purpose = 'run' | 'use';

/**
 * Reads a recipe and checks that its keys go together.
 *
 * @param path a YAML or JSON file
 * @param overrides `key=value`, which override the file
 * @param purpose `run` checks what its tasks need, `use` only what its model and data need. Default `run`
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export async function loadRecipe(
  path: string,
  overrides: readonly string[] = [],
  purpose: Purpose = 'run',
): Promise<Recipe> {
  return resolveRecipe(await readRecipe(path, overrides), path, purpose);
}

/**
 * Checks that a recipe's keys go together, and turns them into this library's words.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export function resolveRecipe(source: RecipeSource, path: string, purpose: Purpose = 'run'): Recipe {
  const {keys, ignored} = parseRecipe(source);
  assertConsistent(keys, source, purpose);
  const dtype = keys.bf16 || keys.pure_bf16 ? 'bfloat16' : keys.fp16 ? 'float16' : undefined;
  const args = argumentsOf(keys);
  return {
    ...args,
    path,
    ignored,
    tasks: {
      train: keys.do_train,
      evaluate: keys.do_eval || keys.eval_strategy !== 'no',
      predict: keys.do_predict,
    },
    method: keys.finetuning_type as Method,
    model: {
      ...args.model,
      adaptersAreArgument: source.isArgument('adapter_name_or_path'),
      dtype: keys.do_train && keys.finetuning_type !== 'lora' ? 'float32' : dtype, // only float32 trains
      computeDtype: dtype ?? 'float32',
      quantization: quantizationOf(keys),
      gradientCheckpointing: keys.use_unsloth_gc ? 'offload' : !keys.disable_gradient_checkpointing,
    },
    lora: {...args.lora, alpha: keys.lora_alpha ?? 2 * keys.lora_rank},
    data: {...args.data, packing: keys.neat_packing || keys.packing},
    compile: {
      ...args.compile,
      schedule: scheduleOf(keys.lr_scheduler_type, keys.lr_scheduler_kwargs, keys.learning_rate),
    },
    fit: {
      ...args.fit,
      evaluationSteps: keys.eval_steps ?? keys.logging_steps,
      seed: keys.data_seed ?? keys.seed,
    },
  };
}

function quantizationOf(keys: RecipeKeys): Recipe['model']['quantization'] {
  if (keys.quantization_bit === undefined) return undefined;
  if (keys.quantization_bit === 8) return {type: 'int8', doubleQuant: false};
  return {type: keys.quantization_type, doubleQuant: keys.double_quantization};
}

/** What no single key shows. */
function assertConsistent(keys: RecipeKeys, source: RecipeSource, purpose: Purpose): void {
  const faults = new Faults([...source.values.keys()]);
  const mistake = (key: keyof RecipeKeys, message: string) =>
    faults.add(key, `${source.where(key)} ${key}: ${message}`);
  const notYet = (key: keyof RecipeKeys, message: string) =>
    faults.add(key, `${source.where(key)} ${key}: ${message}`, 'UNSUPPORTED');
  const isLoRA = keys.finetuning_type === 'lora';
  const hasEvaluationData = keys.eval_dataset !== undefined || keys.val_size > 0;

  if (keys.stage !== 'sft' && keys.stage !== 'pt') {
    notYet(
      'stage',
      `expected sft or pt, got ${keys.stage}. Not yet: preference and reward training are not built here.`,
    );
  }
  if (keys.finetuning_type === 'oft') {
    notYet('finetuning_type', 'expected lora, full or freeze, got oft. Not yet: use lora.');
  }
  for (const report of keys.report_to ?? []) {
    if (['none', 'all', ...REPORTS].includes(report)) continue;
    notYet(
      'report_to',
      `expected none, all, ${REPORTS.join(' or ')}, got ${report}. Not yet: use tensorboard.`,
    );
  }
  const wrongSettings = scheduleFault(keys.lr_scheduler_type, keys.lr_scheduler_kwargs);
  if (wrongSettings) mistake('lr_scheduler_kwargs', wrongSettings);
  if (keys.export_legacy_format) {
    notYet('export_legacy_format', 'expected false, got true. Weights are written as safetensors only.');
  }

  if (keys.use_unsloth_gc && keys.disable_gradient_checkpointing) {
    mistake('use_unsloth_gc', 'expected false beside disable_gradient_checkpointing: true, got true');
  }
  if (keys.do_train && keys.dataset === undefined) mistake('dataset', 'expected one to train on, got none');
  if (purpose === 'run' && (keys.do_train || keys.do_predict) && keys.output_dir === undefined) {
    mistake('output_dir', 'expected a folder, got none');
  }
  if ((keys.do_eval || keys.do_predict || keys.eval_strategy !== 'no') && !hasEvaluationData) {
    const key = keys.do_predict ? 'do_predict' : keys.do_eval ? 'do_eval' : 'eval_strategy';
    mistake(key, 'expected data to evaluate on, got none. Set eval_dataset or val_size.');
  }
  if (keys.do_predict && keys.stage === 'sft' && !keys.predict_with_generate) {
    mistake('do_predict', 'expected predict_with_generate: true beside it, got none');
  }
  if (keys.eval_dataset !== undefined && keys.val_size > 0) {
    mistake('val_size', 'expected none beside eval_dataset: evaluation data comes from one of them');
  }
  if (keys.dataset === undefined && keys.val_size > 0) {
    mistake('val_size', 'expected a dataset to hold examples out of, got none');
  }
  if (keys.stage === 'pt') {
    for (const key of ['predict_with_generate', 'neat_packing', 'train_on_prompt', 'mask_history'] as const) {
      if (keys[key]) mistake(key, 'expected false where stage is pt, got true');
    }
  }
  if (keys.mask_history && keys.train_on_prompt) {
    mistake('mask_history', 'expected false where train_on_prompt is true, got true');
  }
  if (keys.interleave_probs !== undefined) {
    if (keys.mix_strategy === 'concat') {
      mistake('interleave_probs', 'expected an interleaving mix_strategy beside it, got concat');
    }
    for (const key of ['dataset', 'eval_dataset'] as const) {
      const [datasets, given] = [keys[key]?.length, keys.interleave_probs.length];
      if (datasets === undefined || datasets === given) continue;
      mistake('interleave_probs', `expected ${datasets} numbers, one for each ${key}, got ${given}`);
    }
  }
  if (keys.streaming) {
    if (keys.do_train && keys.max_steps === -1)
      mistake('max_steps', 'expected a number where streaming is true, got none');
    if (keys.max_samples !== undefined) mistake('max_samples', 'expected none where streaming is true');
    if (keys.val_size > 0 && keys.val_size < 1) {
      mistake(
        'val_size',
        `expected a number of examples where streaming is true, got a share, ${keys.val_size}`,
      );
    }
  }

  if (!isLoRA) {
    const only = [
      'use_rslora',
      'use_dora',
      'loraplus_lr_ratio',
      'quantization_bit',
      'adapter_name_or_path',
    ] as const;
    for (const key of only) {
      if (keys[key])
        mistake(key, `expected none with finetuning_type ${keys.finetuning_type}: it belongs to lora`);
    }
  }
  if (keys.quantization_bit !== undefined && (keys.adapter_name_or_path?.length ?? 0) > 0) {
    const advice = 'Merge the adapters first: tfjs-lora export.';
    if (keys.create_new_adapter)
      mistake('create_new_adapter', `expected false on a quantized base, got true. ${advice}`);
    if (keys.adapter_name_or_path!.length > 1) {
      mistake(
        'adapter_name_or_path',
        `expected one on a quantized base, got ${keys.adapter_name_or_path!.length}. ${advice}`,
      );
    }
  }
  if (keys.fp16 && (keys.bf16 || keys.pure_bf16)) mistake('fp16', 'expected one of bf16 and fp16, got both');

  if (keys.load_best_model_at_end) {
    if (keys.eval_strategy !== keys.save_strategy) {
      mistake(
        'load_best_model_at_end',
        `expected save_strategy and eval_strategy to be the same, got ${keys.save_strategy} and ${keys.eval_strategy}`,
      );
    } else if (
      keys.eval_strategy === 'steps' &&
      !isMultiple(keys.save_steps, keys.eval_steps ?? keys.logging_steps)
    ) {
      mistake(
        'load_best_model_at_end',
        `expected save_steps to be a multiple of eval_steps, got ${keys.save_steps} and ${keys.eval_steps ?? keys.logging_steps}`,
      );
    }
  }
  if (keys.early_stopping_steps !== undefined && keys.eval_strategy === 'no') {
    mistake('early_stopping_steps', 'expected an eval_strategy beside it, got no');
  }
  faults.throwIfAny();
}

/** Shares of the run can be compared too. */
function isMultiple(value: number, of: number): boolean {
  const ratio = value / of;
  return Math.abs(ratio - Math.round(ratio)) < 1e-6 && value < 1 === of < 1;
}
