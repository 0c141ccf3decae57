import {ownLayerClass} from '../../../models/peft/adapterRegistry.ts';
import type {ErrorCode} from '../../../quant/errors.ts';
import {KIND_OF_STAGE} from '../../data/datasets/datasetArgs.ts';
import {ktoLoss} from '../../training/losses/ktoLoss.ts';
import {preferenceLoss} from '../../training/losses/preferenceLoss.ts';
import {rewardLoss} from '../../training/losses/rewardLoss.ts';
import {SCORE_NAMES} from '../../training/prediction/predictionScores.ts';
import {withoutPrefix} from '../../training/run/bestMetric.ts';
import {BITSANDBYTES, REPORTS, type RecipeKeys} from './recipeKeys.ts';
import {scheduleFault} from './scheduleOf.ts';
import {hasReference, usesReference} from './usesReference.ts';

/** The purpose of reading a recipe: to run its tasks, or to use its model, data and settings in another way. */
export type Purpose = 'run' | 'use';

/** A rule between several keys, or about a known value that is not supported. */
interface RecipeRule {
  /** The key that the message names. */
  key: keyof RecipeKeys;
  /** Whether a recipe breaks the rule. */
  isBroken(keys: RecipeKeys, purpose: Purpose): unknown;
  /** Returns the message for a broken rule, or one for each fault. */
  message(keys: RecipeKeys): string | string[];
  code: ErrorCode;
}

type Message = string | RecipeRule['message'];

const rule = (
  key: keyof RecipeKeys,
  isBroken: RecipeRule['isBroken'],
  message: Message,
  code: ErrorCode = 'INVALID_CONFIG',
): RecipeRule => ({
  key,
  isBroken,
  message: typeof message === 'string' ? () => message : message,
  code,
});

const notYet = (key: keyof RecipeKeys, isBroken: RecipeRule['isBroken'], message: Message) =>
  rule(key, isBroken, message, 'UNSUPPORTED');

const hasEvaluationData = ({eval_dataset, val_size}: RecipeKeys) =>
  eval_dataset !== undefined || val_size > 0;
const NO_EVALUATION_DATA = 'expected data to evaluate on, got none. Set eval_dataset or val_size.';

const foreignReports = ({report_to = []}: RecipeKeys) =>
  report_to.filter((report) => !['none', 'all', ...REPORTS].includes(report));

const adaptersOnQuantized = ({quantization_bit, adapter_name_or_path = []}: RecipeKeys) =>
  quantization_bit === undefined ? 0 : adapter_name_or_path.length;
const MERGE_FIRST = 'Merge the adapters first: tfjs-lora export.';

/** Whether the examples of a stage are pairs or verdicts. */
const areCompared = (stage: RecipeKeys['stage']) => stage !== 'ppo' && KIND_OF_STAGE[stage] !== 'answer';
/** Whether a stage compares answers with those of a reference. */
const comparesAnswers = (stage: string) => stage === 'dpo' || stage === 'kto';

/** The numbers of an evaluation, by their names in logs without `eval_`. */
const bestMetrics = ({stage, predict_with_generate, pref_loss}: RecipeKeys): string[] => {
  if (stage === 'dpo') return ['loss', ...preferenceLoss({type: pref_loss}).metrics];
  if (stage === 'kto') return ['loss', ...ktoLoss().metrics];
  if (stage === 'rm') return ['loss', ...rewardLoss().metrics];
  return ['loss', 'perplexity', ...(predict_with_generate ? SCORE_NAMES : [])];
};
const SCORES_NEED = ' Set predict_with_generate: true, which measures it.';

const LABEL_LOSSES = ['use_dft_loss', 'use_asft_loss', 'use_eaft_loss', 'label_smoothing_factor'] as const;
const chosenLosses = (keys: RecipeKeys) => LABEL_LOSSES.filter((key) => keys[key]);

const evaluationSteps = ({eval_steps, logging_steps}: RecipeKeys) => eval_steps ?? logging_steps;

/** Whether an interval is a multiple of another. Both may be shares of the run. */
function isMultiple(value: number, of: number): boolean {
  const ratio = value / of;
  return Math.abs(ratio - Math.round(ratio)) < 1e-6 && value < 1 === of < 1;
}

/** The conditions that a key's own type cannot express. */
const RULES: readonly RecipeRule[] = [
  rule(
    'ref_model',
    ({stage, ref_model, pref_loss}) => stage === 'dpo' && ref_model && !hasReference(pref_loss),
    ({pref_loss}) => `expected none with pref_loss: ${pref_loss}, which compares with no reference`,
  ),
  ...(['ref_model_adapters', 'ref_model_quantization_bit'] as const).map((key) =>
    rule(
      key,
      ({stage, use_asft_loss, ref_model, [key]: value}) =>
        (comparesAnswers(stage) || stage === 'ppo' || use_asft_loss) && value && ref_model === undefined,
      'expected ref_model with it, got none',
    ),
  ),
  rule(
    'ref_model_adapters',
    ({ref_model_adapters = [], ref_model_quantization_bit: bits}) => bits && ref_model_adapters.length > 1,
    ({ref_model_adapters = []}) =>
      `expected one on a quantized ref_model, got ${ref_model_adapters.length}. ${MERGE_FIRST}`,
  ),
  rule(
    'reward_model',
    ({stage, reward_model}) => stage === 'ppo' && reward_model === undefined,
    'expected a reward model with stage: ppo, got none',
  ),
  rule(
    'reward_model',
    ({stage, reward_model = '', reward_model_type: type}) =>
      stage === 'ppo' && type === 'api' && !/^https?:/.test(reward_model),
    ({reward_model}) => `expected an address (http…) with reward_model_type: api, got ${reward_model}`,
  ),
  rule(
    'reward_model_type',
    ({stage, finetuning_type, reward_model_type: type}) =>
      stage === 'ppo' && type === 'lora' && finetuning_type !== 'lora',
    ({finetuning_type}) => `expected full or api with finetuning_type: ${finetuning_type}, got lora`,
  ),
  ...(['reward_model_adapters', 'reward_model_quantization_bit'] as const).map((key) =>
    rule(
      key,
      ({stage, reward_model_type: type, [key]: value}) => stage === 'ppo' && value && type !== 'full',
      ({reward_model_type: type}) => `expected none with reward_model_type: ${type}`,
    ),
  ),
  rule(
    'reward_model_adapters',
    ({reward_model_adapters: adapters = [], reward_model_quantization_bit: bits}) =>
      bits && adapters.length > 1,
    ({reward_model_adapters: adapters = []}) =>
      `expected one on a quantized reward_model, got ${adapters.length}. ${MERGE_FIRST}`,
  ),
  rule(
    'do_train',
    ({stage, do_train}) => stage === 'ppo' && !do_train,
    'expected true with stage: ppo, got false',
  ),
  ...(
    [
      'do_eval',
      'do_predict',
      'predict_with_generate',
      'eval_dataset',
      'val_size',
      'streaming',
      'packing',
      'neat_packing',
      'train_on_prompt',
      'mask_history',
    ] as const
  ).map((key) =>
    rule(
      key,
      ({stage, [key]: value}) => stage === 'ppo' && value,
      'expected none with stage: ppo, which learns from prompts and cannot be evaluated',
    ),
  ),
  notYet(
    'do_sample',
    ({stage, do_sample}) => stage === 'ppo' && !do_sample,
    'expected true with stage: ppo, got false',
  ),
  rule(
    'lora_dropout',
    ({stage, lora_dropout}) => comparesAnswers(stage) && lora_dropout > 0,
    ({stage}) =>
      `expected 0 with stage: ${stage}, which LLaMA-Factory trains without dropout whatever this key says. Remove the key.`,
  ),
  rule(
    'dpo_label_smoothing',
    ({stage, dpo_label_smoothing, pref_loss}) =>
      stage === 'dpo' && dpo_label_smoothing > 0 && pref_loss !== 'sigmoid',
    'expected 0 unless pref_loss is sigmoid',
  ),
  rule(
    'pref_ftx',
    ({stage, pref_ftx, pref_loss}) => stage === 'dpo' && pref_ftx > 0 && pref_loss === 'kto_pair',
    'expected 0 with pref_loss: kto_pair',
  ),
  rule(
    'do_predict',
    ({stage, do_predict}) => comparesAnswers(stage) && do_predict,
    ({stage}) => `expected false with stage: ${stage}, got true`,
  ),
  ...(['predict_with_generate', 'packing', 'neat_packing', 'train_on_prompt', 'mask_history'] as const).map(
    (key) =>
      rule(
        key,
        ({stage, [key]: value}) => value && areCompared(stage),
        ({stage}) => `expected false with stage: ${stage}, got true`,
      ),
  ),
  notYet(
    'do_eval',
    ({stage, do_eval, do_train}) => comparesAnswers(stage) && do_eval && !do_train,
    ({stage}) => `expected do_train: true with it in stage: ${stage}, got none`,
  ),
  notYet(
    'finetuning_type',
    ({finetuning_type}) => finetuning_type === 'oft',
    'expected lora, full or freeze, got oft. It is not supported yet: use lora.',
  ),
  notYet(
    'report_to',
    (keys) => foreignReports(keys).length > 0,
    (keys) =>
      foreignReports(keys).map(
        (report) =>
          `expected none, all, ${REPORTS.join(' or ')}, got ${report}. ` +
          (['wandb', 'trackio'].includes(report)
            ? 'No library for Node that is maintained writes to it: use tensorboard.'
            : 'It is not supported yet: use tensorboard.'),
      ),
  ),
  rule(
    'lr_scheduler_kwargs',
    ({lr_scheduler_type, lr_scheduler_kwargs}) => scheduleFault(lr_scheduler_type, lr_scheduler_kwargs),
    ({lr_scheduler_type, lr_scheduler_kwargs}) => scheduleFault(lr_scheduler_type, lr_scheduler_kwargs)!,
  ),
  rule(
    'export_gguf_type',
    ({export_format, export_gguf_type}) => export_gguf_type !== undefined && export_format === 'safetensors',
    'expected export_format: gguf with it, got safetensors',
  ),
  notYet(
    'export_legacy_format',
    ({export_legacy_format}) => export_legacy_format,
    'expected false, got true. Weights are only written as safetensors.',
  ),
  rule(
    'quantization_method',
    ({quantization_bit, quantization_method}) =>
      quantization_bit === undefined && !BITSANDBYTES.includes(quantization_method),
    'expected quantization_bit with it, got none',
  ),
  rule(
    'use_unsloth_gc',
    ({use_unsloth_gc, disable_gradient_checkpointing}) => use_unsloth_gc && disable_gradient_checkpointing,
    'expected false with disable_gradient_checkpointing: true, got true',
  ),
  rule(
    'fp16',
    ({fp16, bf16, pure_bf16}) => fp16 && (bf16 || pure_bf16),
    'expected one of bf16 and fp16, got both',
  ),

  // data
  rule(
    'dataset',
    ({do_train, dataset}) => do_train && dataset === undefined,
    'expected a data set to train on, got none',
  ),
  rule(
    'output_dir',
    ({do_train, do_predict, output_dir}, purpose) =>
      purpose === 'run' && (do_train || do_predict) && output_dir === undefined,
    'expected a folder, got none',
  ),
  rule('do_predict', (keys) => keys.do_predict && !hasEvaluationData(keys), NO_EVALUATION_DATA),
  rule('do_eval', (keys) => keys.do_eval && !keys.do_predict && !hasEvaluationData(keys), NO_EVALUATION_DATA),
  rule(
    'eval_strategy',
    (keys) => keys.eval_strategy !== 'no' && !keys.do_eval && !keys.do_predict && !hasEvaluationData(keys),
    NO_EVALUATION_DATA,
  ),
  rule(
    'do_predict',
    ({do_predict, stage, predict_with_generate}) => do_predict && stage === 'sft' && !predict_with_generate,
    'expected predict_with_generate: true with it, got none',
  ),
  rule(
    'val_size',
    ({eval_dataset, val_size}) => eval_dataset !== undefined && val_size > 0,
    'expected none with eval_dataset: evaluation data comes from one of the two',
  ),
  rule(
    'val_size',
    ({dataset, val_size}) => dataset === undefined && val_size > 0,
    'expected a data set to hold examples out of, got none',
  ),
  ...(['predict_with_generate', 'neat_packing', 'train_on_prompt', 'mask_history'] as const).map((key) =>
    rule(key, (keys) => keys.stage === 'pt' && keys[key], 'expected false with stage: pt, got true'),
  ),
  rule(
    'mask_history',
    ({mask_history, train_on_prompt}) => mask_history && train_on_prompt,
    'expected false with train_on_prompt: true, got true',
  ),
  rule(
    'interleave_probs',
    ({interleave_probs, mix_strategy}) => interleave_probs !== undefined && mix_strategy === 'concat',
    'expected an interleaving mix_strategy with it, got concat',
  ),
  ...(['dataset', 'eval_dataset'] as const).map((key) =>
    rule(
      'interleave_probs',
      ({interleave_probs, [key]: datasets}) =>
        interleave_probs && datasets && interleave_probs.length !== datasets.length,
      ({interleave_probs, [key]: datasets}) =>
        `expected ${datasets!.length} numbers, one for each ${key}, got ${interleave_probs!.length}`,
    ),
  ),
  rule(
    'max_steps',
    ({streaming, do_train, max_steps}) => streaming && do_train && max_steps === -1,
    'expected a number with streaming: true, got none',
  ),
  rule(
    'max_samples',
    ({streaming, max_samples}) => streaming && max_samples !== undefined,
    'expected none with streaming: true',
  ),
  rule(
    'val_size',
    ({streaming, val_size}) => streaming && val_size > 0 && val_size < 1,
    ({val_size}) => `expected a number of examples with streaming: true, got a share, ${val_size}`,
  ),

  // losses of labels
  rule(
    'use_dft_loss',
    (keys) => chosenLosses(keys).length > 1,
    (keys) => `expected one of ${LABEL_LOSSES.join(', ')}, got ${chosenLosses(keys).join(' and ')}`,
  ),
  ...(['use_dft_loss', 'use_asft_loss', 'use_eaft_loss'] as const).map((key) =>
    rule(
      key,
      (keys) => keys[key] && keys.stage !== 'sft',
      ({stage}) => `expected false with stage: ${stage}, got true`,
    ),
  ),
  ...(['label_smoothing_factor', 'neftune_noise_alpha'] as const).map((key) =>
    rule(
      key,
      (keys) => keys[key] && !['sft', 'pt'].includes(keys.stage),
      (keys) => `expected none with stage: ${keys.stage}, got ${keys[key]}`,
    ),
  ),
  notYet(
    'do_eval',
    ({use_asft_loss, do_eval, do_train, ref_model, finetuning_type: type}) =>
      use_asft_loss && do_eval && !do_train && (ref_model !== undefined || ['full', 'freeze'].includes(type)),
    'expected do_train: true with it, use_asft_loss and another model as the reference, got none',
  ),

  // benchmarks
  rule(
    'task',
    ({task}, purpose) => purpose === 'run' && task !== undefined,
    'expected none in a recipe that is run: tfjs-lora eval runs benchmarks',
  ),
  rule(
    'save_dir',
    ({save_dir, task}) => save_dir !== undefined && task === undefined,
    'expected task with it, got none. Set output_dir instead.',
  ),
  rule(
    'batch_size',
    ({batch_size, task}) => batch_size !== undefined && task === undefined,
    'expected task with it, got none. Set per_device_train_batch_size or per_device_eval_batch_size instead.',
  ),

  // adapters
  ...(
    [
      'additional_target',
      'use_rslora',
      'use_dora',
      'pissa_init',
      'loraplus_lr_ratio',
      'quantization_bit',
      'adapter_name_or_path',
    ] as const
  ).map((key) =>
    rule(
      key,
      (keys) => keys.finetuning_type !== 'lora' && !ownLayerClass(keys.finetuning_type) && keys[key],
      ({finetuning_type}) => `expected none with finetuning_type ${finetuning_type}: it belongs to lora`,
    ),
  ),
  ...Object.entries({lora_alpha: 'alpha', use_rslora: 'useRsLoRA', use_dora: 'useDoRA'} as const).map(
    ([key, setting]) =>
      rule(
        key as 'lora_alpha',
        ({finetuning_type, [key as 'lora_alpha']: value}) => {
          const {fields = {[setting]: true}} = ownLayerClass(finetuning_type)?.adapterClass ?? {};
          return value && !(setting in fields);
        },
        ({finetuning_type}) =>
          `expected none with finetuning_type ${finetuning_type}, which has no such setting`,
      ),
  ),
  rule(
    'pissa_init',
    ({pissa_init, quantization_bit}) => pissa_init && quantization_bit !== undefined,
    'expected false on a quantized base, got true: it takes the principal part from exact weights',
  ),
  rule(
    'pissa_init',
    ({pissa_init, stage, pref_loss, use_asft_loss, ref_model}) =>
      pissa_init && usesReference(stage, pref_loss, use_asft_loss) && ref_model === undefined,
    'expected ref_model with it where the model is compared with a reference, because PiSSA changes the base, got none',
  ),
  rule(
    'pissa_convert',
    ({pissa_convert, pissa_init}) => pissa_convert && !pissa_init,
    'expected pissa_init: true with it, got false',
  ),
  rule(
    'pissa_convert',
    ({pissa_convert, use_dora}) => pissa_convert && use_dora,
    "expected false with use_dora, got true: DoRA's magnitudes belong to the changed base",
  ),
  rule(
    'create_new_adapter',
    (keys) => keys.create_new_adapter && adaptersOnQuantized(keys) > 0,
    `expected false on a quantized base, got true. ${MERGE_FIRST}`,
  ),
  rule(
    'adapter_name_or_path',
    (keys) => adaptersOnQuantized(keys) > 1,
    (keys) => `expected one on a quantized base, got ${adaptersOnQuantized(keys)}. ${MERGE_FIRST}`,
  ),

  // the best model
  rule(
    'load_best_model_at_end',
    ({load_best_model_at_end, eval_strategy, save_strategy}) =>
      load_best_model_at_end && save_strategy !== 'best' && eval_strategy !== save_strategy,
    ({eval_strategy, save_strategy}) =>
      `expected save_strategy and eval_strategy to be the same, got ${save_strategy} and ${eval_strategy}`,
  ),
  rule(
    'load_best_model_at_end',
    (keys) =>
      keys.load_best_model_at_end &&
      keys.eval_strategy === 'steps' &&
      keys.save_strategy === 'steps' &&
      !isMultiple(keys.save_steps, evaluationSteps(keys)),
    (keys) =>
      `expected save_steps to be a multiple of eval_steps, got ${keys.save_steps} and ${evaluationSteps(keys)}`,
  ),
  rule(
    'metric_for_best_model',
    (keys) =>
      keys.metric_for_best_model !== undefined &&
      !bestMetrics(keys).includes(withoutPrefix(keys.metric_for_best_model)),
    (keys) => {
      const {metric_for_best_model: given, predict_with_generate} = keys;
      const advice = SCORE_NAMES.includes(withoutPrefix(given!)) && !predict_with_generate ? SCORES_NEED : '';
      return `expected ${bestMetrics(keys).join(', ')}, got ${given}.${advice}`;
    },
  ),
  rule(
    'save_strategy',
    ({save_strategy, eval_strategy}) => save_strategy === 'best' && eval_strategy === 'no',
    'expected an eval_strategy with save_strategy: best, got no',
  ),
  rule(
    'eval_generate_samples',
    ({eval_generate_samples, predict_with_generate}) =>
      eval_generate_samples !== undefined && !predict_with_generate,
    'expected predict_with_generate: true with it, got none',
  ),
  rule(
    'early_stopping_steps',
    ({early_stopping_steps, eval_strategy}) => early_stopping_steps !== undefined && eval_strategy === 'no',
    'expected an eval_strategy with it, got no',
  ),
];

/**
 * Returns the faults that the rules find.
 *
 * @param unclear keys whose value is unknown; rules that read one of them are skipped
 */
export function brokenRules(
  keys: RecipeKeys,
  unclear: ReadonlySet<string>,
  purpose: Purpose,
): {key: keyof RecipeKeys; message: string; code: ErrorCode}[] {
  return RULES.flatMap(({key, isBroken, message, code}) => {
    let isUnclear = false;
    const watched = new Proxy(keys, {
      get(target, name) {
        isUnclear ||= unclear.has(String(name));
        return Reflect.get(target, name);
      },
    });
    if (!isBroken(watched, purpose) || isUnclear) return [];
    return [message(keys)].flat().map((text) => ({key, message: text, code}));
  });
}
