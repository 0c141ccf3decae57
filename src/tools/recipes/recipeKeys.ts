import {z} from 'zod';
import {GGUF_FILE_TYPES} from '../../../models/gguf/ggufFileType.ts';
import {ownLayerClass} from '../../../models/peft/adapterRegistry.ts';
import {isBitsandbytesType, quantizerNames} from '../../../quant/quantizerRegistry.ts';
import {ktoLoss} from '../../training/losses/ktoLoss.ts';
import {PREFERENCE_LOSSES, preferenceLoss} from '../../training/losses/preferenceLoss.ts';
import {rewardLoss} from '../../training/losses/rewardLoss.ts';
import {SCORE_NAMES} from '../../training/prediction/predictionScores.ts';
import {withoutPrefix} from '../../training/run/bestMetric.ts';
import type {ScheduleName} from '../../training/steps/learningRateSchedule.ts';
import {BENCHMARK_TASKS} from '../evaluation/loadBenchmark.ts';
import {type PlacedBy, type PlacedKey, to} from './placedKey.ts';

/*
 * Every key of a recipe that has a meaning here, with LLaMA-Factory's name, meaning and default, and the argument that
 * its value becomes. The recipe, the JSON schema for editors, the table in docs/recipes.md and the messages for wrong
 * values are made from these rows. A key without a target is read in recipe.ts, together with others.
 */

/** The formats in which a training can write its log, besides its own file. */
export const REPORTS = ['tensorboard', 'csv'] as const;

const flag = () => z.boolean();
const text = () => z.string().min(1);
const count = () => z.int().positive();
const fraction = () => z.number().min(0).max(1);
/** A number of steps; below 1, a share of the run's steps, as in transformers. */
const interval = () =>
  z
    .number()
    .positive()
    .refine((steps) => steps < 1 || Number.isInteger(steps), 'a whole number of steps, or a share below 1');
/** A comma-separated text or a YAML list. */
const list = () => z.union([text(), z.array(text())]).transform(splitList);
/** 0, a whole number or a share below 1. */
const countOrShare = (what: string) =>
  z
    .number()
    .min(0)
    .refine((value) => value < 1 || Number.isInteger(value), `a whole number of ${what}, or a share below 1`);
const probabilities = () =>
  z
    .union([text(), z.array(z.number()), z.number()])
    .transform((value) => [value].flat().flatMap((part) => splitList(String(part)).map(Number)))
    .refine(
      (chances) => chances.every((chance) => chance >= 0 && chance <= 1),
      'numbers from 0 to 1, comma separated',
    );

function splitList(value: string | string[]): string[] {
  const parts = typeof value === 'string' ? value.split(',') : value;
  return parts.map((part) => part.trim()).filter((part) => part !== '');
}

/** The names of bitsandbytes as a method. */
export const BITSANDBYTES: readonly string[] = ['bitsandbytes', 'bnb'];
const quantizationMethod = () =>
  text().refine(
    (name) => BITSANDBYTES.includes(name) || (quantizerNames().includes(name) && !isBitsandbytesType(name)),
    'bitsandbytes, bnb or the name of a registered quantizer',
  );

const FINETUNING_TYPES = ['lora', 'full', 'freeze', 'oft'];
const finetuningType = () =>
  text()
    .refine(
      (type) => FINETUNING_TYPES.includes(type) || ownLayerClass(type) !== undefined,
      'lora, full, freeze or a registered kind of adapter',
    )
    .meta({examples: FINETUNING_TYPES}); // which editors suggest

/** Numbers of evaluations, in any stage; a rule refuses those that a recipe's own evaluations lack. */
const STAGE_METRICS = [preferenceLoss({type: 'orpo'}), ktoLoss(), rewardLoss()].flatMap(
  ({metrics}) => metrics,
);
const EVALUATED = ['loss', 'perplexity', ...SCORE_NAMES, ...new Set(STAGE_METRICS)];
const metricName = () =>
  text()
    .refine((name) => EVALUATED.includes(withoutPrefix(name)), EVALUATED.join(', '))
    .meta({examples: EVALUATED});

const SCHEDULES = [
  'linear',
  'cosine',
  'cosine_with_restarts',
  'polynomial',
  'constant',
  'constant_with_warmup',
  'inverse_sqrt',
  'cosine_with_min_lr',
  'cosine_warmup_with_min_lr',
  'warmup_stable_decay',
] as const satisfies ScheduleName[];
const scheduleSettings = () =>
  z.strictObject({
    num_cycles: z.number().positive().optional(),
    power: z.number().positive().optional(),
    lr_end: z.number().min(0).optional(),
    min_lr: z.number().min(0).optional(),
    min_lr_rate: fraction().optional(),
    warmup_lr_rate: fraction().optional(),
    num_decay_steps: z.int().min(0).optional(),
    num_stable_steps: z.int().min(0).optional(),
    warmup_type: z.enum(['linear', 'cosine', '1-sqrt']).optional(),
    decay_type: z.enum(['linear', 'cosine', '1-sqrt']).optional(),
    min_lr_ratio: fraction().optional(),
    timescale: count().optional(),
  });

// biome-ignore format: a row for each key
const model = {
  model_name_or_path: to('model.nameOrPath', text(), 'A Hugging Face folder, a GGUF file, or the name of a model on the hub.'),
  adapter_name_or_path: to('model.adapters', list().optional(),
    'PEFT folders or hub names, in order. Training continues the last one and merges those before it; ' +
    'exporting and predicting merge all.', (adapters = []) => adapters),
  cache_dir: to('hub.cacheDir', text().optional(),
    'Folder for models from the hub. Default: the standard hub cache.'),
  model_revision: to('model.revision', text().default('main'), 'Branch, tag or commit of a model on the hub.'),
  hf_hub_token: to('hub.token', text().optional(), 'Token for private models on the hub. Default: HF_TOKEN.'),
  infer_dtype: to('export.dtype', z.enum(['auto', 'float16', 'bfloat16', 'float32']).default('auto'),
    'Storage type of the weights of an exported model; `auto`: the same as the source.',
    (dtype) => (dtype === 'auto' ? undefined : dtype)),
  disable_gradient_checkpointing: flag().default(false)
    .describe('Keep activations instead of computing each block again: faster, but takes more memory.'),
  use_unsloth_gc: flag().default(false)
    .describe('Keep the inputs of blocks, from which blocks are computed again, in host memory: on an NVIDIA card ' +
      'this saves card memory at about the same speed.'),
  quantization_bit: z.union([z.literal(4), z.literal(8)]).optional()
    .describe('Quantize the frozen base while loading it: QLoRA. LoRA only.'),
  quantization_method: quantizationMethod().default('bitsandbytes')
    .describe('How to quantize while loading: `bitsandbytes` or `bnb`, or the name of a quantizer that an extension ' +
      'registers.'),
  quantization_type: z.enum(['nf4', 'fp4']).default('nf4').describe('Format of 4-bit weights.'),
  double_quantization: flag().default(true).describe('4 bits: quantize the scales too.'),
};

// biome-ignore format: a row for each key
const method = {
  stage: to('data.stage', z.enum(['sft', 'pt', 'rm', 'ppo', 'dpo', 'kto']).default('sft'),
    '`sft` learns answers, `pt` plain text, `dpo` preferences, `kto` verdicts on answers, `rm` a reward model, `ppo` from ' +
    'the scores of one.'),
  do_train: flag().default(false).describe('Train.'),
  do_eval: flag().default(false)
    .describe('Measure the loss on the evaluation data at the end. Always true if `eval_strategy` is not `no`.'),
  do_predict: flag().default(false)
    .describe('Generate answers to the evaluation data and score them, which needs `predict_with_generate`; in stage `rm`, ' +
      'score the answers of the data.'),
  finetuning_type: finetuningType().default('lora')
    .describe('Train adapters (`lora`), all weights (`full`), or some layers (`freeze`). `oft` is not supported yet. The ' +
      "`peft_type` of an extension's kind of adapter, in lower case, trains that."),
  add_tokens: to('vocabulary.tokens', list().optional(),
    'Tokens to add to the tokenizer. The model gets rows for them, as with `resize_vocab`.', (tokens = []) => tokens),
  add_special_tokens: to('vocabulary.specialTokens', list().optional(), 'The same for special tokens.',
    (tokens = []) => tokens),
  resize_vocab: to('vocabulary.resize', flag().default(false),
    'Give the embedding and the head rows for all tokens, in multiples of 64. A new adapter then also trains both, unless ' +
    '`additional_target` names others. To use the adapter, keep these three keys.'),
  lora_rank: to('lora.rank', count().default(8), 'Rank of the update.'),
  lora_alpha: to('lora.alpha', z.number().positive().optional(),
    'The update is scaled by alpha / rank. Default 2 · `lora_rank`.'),
  lora_dropout: to('lora.dropout', z.number().min(0).lt(1).default(0), "Dropout on the adapter's input."),
  lora_target: to('lora.targetModules', list().optional(),
    '`all` (every linear layer except the head), or names of layers. Default `all`.',
    (targets = ['all']) => (targets.length === 1 && targets[0] === 'all' ? 'all-linear' : targets)),
  additional_target: to('lora.modulesToSave', list().optional(),
    'Modules that train whole beside the update and are saved with it, such as `embed_tokens, lm_head`; `norm`: every norm.'),
  use_rslora: to('lora.useRsLoRA', flag().default(false), 'Scale by alpha / √rank.'),
  use_dora: to('lora.useDoRA', flag().default(false), 'DoRA: train the magnitude of each output separately.'),
  pissa_init: to('pissa.init', flag().default(false),
    'PiSSA: the new adapter starts with the principal part of each weight, which is taken from the base.'),
  pissa_iter: to('pissa.iterations', z.number().int().min(-1).default(16),
    "Iterations of PEFT's approximation of PiSSA, for the adapter's config; −1: exact. PiSSA is always exact here."),
  pissa_convert: to('pissa.convert', flag().default(false),
    'Also write the trained adapter as plain LoRA of twice the rank for the unchanged base, to `pissa_converted`.'),
  loraplus_lr_ratio: to('optimizer.loraPlusRatio', z.number().positive().optional(),
    'LoRA+: learning rate of B divided by that of A.'),
  loraplus_lr_embedding: to('optimizer.loraPlusEmbeddingRate', z.number().positive().default(1e-6),
    'LoRA+: learning rate of the B of an adapted `embed_tokens`.'),
  create_new_adapter: to('model.createNewAdapter', flag().default(false),
    'Merge all of `adapter_name_or_path` and train a new adapter instead of continuing the last one.'),
  pref_loss: to('preference.type', z.enum(PREFERENCE_LOSSES).default('sigmoid'),
    '`dpo`: loss of a pair. `orpo` and `simpo` need no reference.'),
  pref_beta: to(['preference.beta', 'kto.beta'], z.number().positive().default(0.1),
    '`dpo`, `kto`: strength of the preference.'),
  pref_ftx: to(['preference.ftx', 'kto.ftx'], z.number().min(0).default(0),
    "`dpo`, `kto`: weight of the chosen answer's own loss, added to the loss."),
  kto_chosen_weight: to('kto.chosenWeight', z.number().min(0).default(1),
    '`kto`: weight of the losses of desirable answers.'),
  kto_rejected_weight: to('kto.rejectedWeight', z.number().min(0).default(1),
    '`kto`: weight of the losses of undesirable answers.'),
  dpo_label_smoothing: to('preference.labelSmoothing', z.number().min(0).lt(0.5).default(0),
    '`dpo`: assumed share of pairs whose answers are swapped; for `sigmoid`.'),
  simpo_gamma: to('preference.simpoGamma', z.number().default(0.5), '`dpo`: margin of the reward, for `simpo`.'),
  ld_alpha: to('preference.ldAlpha', z.number().min(0).max(1).optional(),
    '`dpo`: weight of the tokens beyond the length of the shorter answer. Default 1.'),
  ref_model: to('reference.nameOrPath', text().optional(),
    '`dpo`, `kto`, `ppo`, `use_asft_loss`: folder or hub name of the model to compare with. Default: the model without its adapter; with `full` and ' +
    '`freeze`, the model as it was before training.'),
  ref_model_adapters: to('reference.adapters', list().optional(),
    'Adapters of `ref_model`, in order. If `ref_model` is the base of the trained model, no second base is loaded.',
    (adapters = []) => adapters),
  ref_model_quantization_bit: z.union([z.literal(4), z.literal(8)]).optional()
    .describe('Quantize `ref_model` while loading it, as the other `quantization` keys say.'),
  reward_model: to('rewardModel.nameOrPath', text().optional(),
    '`ppo`: folder or hub name of the reward model, as `reward_model_type` says, or the address of a server.'),
  reward_model_type: to('rewardModel.type', z.enum(['lora', 'full', 'api']).default('lora'),
    '`ppo`: an adapter on the trained model with its value head (`lora`), a separate model (`full`), or a server that ' +
    'takes `{model, messages}` and returns `{scores}` (`api`).'),
  reward_model_adapters: to('rewardModel.adapters', list().optional(),
    '`full`: adapters of `reward_model`, in order.', (adapters = []) => adapters),
  reward_model_quantization_bit: z.union([z.literal(4), z.literal(8)]).optional()
    .describe('`full`: quantize `reward_model` while loading it, as the other `quantization` keys say.'),
  ppo_buffer_size: to('ppo.bufferSize', count().default(1), '`ppo`: accumulation windows of answers in a step.'),
  ppo_epochs: to('ppo.epochs', count().default(4), '`ppo`: passes over the answers of a step.'),
  ppo_score_norm: to('ppo.scoreNorm', flag().default(false),
    '`ppo`: normalize scores by the mean and standard deviation of all scores so far.'),
  ppo_target: to('ppo.target', z.number().positive().default(6),
    '`ppo`: divergence from the reference to aim at, summed over an answer.'),
  ppo_whiten_rewards: to('ppo.whitenRewards', flag().default(false),
    '`ppo`: divide the rewards of tokens by their standard deviation.'),
  freeze_trainable_layers: to('freeze.blocks',
    z.int().refine((layers) => layers !== 0, 'an integer other than 0').default(2),
    '`freeze`: the last n blocks train; the first n if negative.'),
  freeze_trainable_modules: to('freeze.modules', list().optional(),
    '`freeze`: modules of these blocks, such as `self_attn, mlp`. Default `all`.', (modules = ['all']) => modules),
  freeze_extra_modules: to('freeze.extraModules', list().optional(),
    '`freeze`: modules outside the blocks that train too: `embed_tokens`, `norm`, `lm_head`.',
    (modules = []) => modules),
  pure_bf16: flag().default(false).describe('The same as `bf16`; trained weights stay float32 here.'),
};

// biome-ignore format: a row for each key
const dataset = {
  dataset: to('splits.dataset', list().optional(),
    'Names in `dataset_info.json`. `mix_strategy` says how several data sets are mixed.', (names = []) => names),
  eval_dataset: to('splits.evaluationDataset', list().optional(),
    'Names of data sets for evaluation and prediction, instead of `val_size`.', (names = []) => names),
  dataset_dir: to('data.datasetDir', text().default('data'),
    'Folder of `dataset_info.json` and its files. `ONLINE`: the names are those on the hub.'),
  template: to(['data.template', 'benchmark.template'], text().optional(),
    "Chat format, such as `llama3`. Default: the model's own chat template."),
  default_system: to('data.defaultSystem', text().optional(),
    'System message for conversations without one.'),
  enable_thinking: to('data.enableThinking', flag().default(true),
    "Whether answers contain thoughts, with `template: qwen3`. False is refused if the model's own chat template writes `<think>`."),
  preserve_thinking: to('data.preserveThinking', flag().default(false),
    'Whether earlier answers keep their thoughts if only the last answer is learned. It is refused where `enable_thinking: false` is.'),
  cutoff_len: to('data.cutoffLength', count().default(2048), 'Longest example in tokens; longer ones are cut.'),
  max_samples: to('data.maxSamples', count().optional(), 'Largest number of examples from each data set.'),
  train_on_prompt: to('data.trainOnPrompt', flag().default(false), 'Learn the prompt too.'),
  mask_history: to('data.maskHistory', flag().default(false), 'Learn only the last answer of a conversation.'),
  packing: to('data.packing', flag().optional(),
    'Put several examples into one row; each attends only to itself. Default: only for `pt`.'),
  neat_packing: flag().default(false).describe(
    'The same as `packing`: packed examples never attend to each other here.'),
  streaming: to('data.streaming', flag().default(false),
    'Read the data while training, for files larger than memory.'),
  buffer_size: to('data.bufferSize', count().default(16384),
    '`streaming`: number of examples in the shuffle buffer.'),
  mix_strategy: to('data.mixStrategy',
    z.enum(['concat', 'interleave_under', 'interleave_over', 'interleave_once']).default('concat'),
    'One data set after the other, or in turn: until the first or the last is used up, or each example once.'),
  interleave_probs: to('data.interleaveProbs', probabilities().optional(),
    'Probability of each data set when interleaving, separated by commas.'),
  overwrite_cache: to('data.overwriteCache', flag().default(false), 'Tokenize again even if a cached result exists.'),
  preprocessing_num_workers: to('data.workers', count().optional(),
    'Number of threads that tokenize. Default: one for each processor.'),
  val_size: to('splits.valSize', countOrShare('examples').default(0),
    'Part of the training data that is held out for evaluation: a share below 1, or a number of examples.'),
};

// biome-ignore format: a row for each key
const output = {
  output_dir: to(['fit.outputDir', 'prediction.outputDir'], text().optional(),
    'Folder for the adapter, checkpoints, logs and plots.'),
  overwrite_output_dir: to('fit.overwriteOutputDir', flag().default(false),
    'Start over if the folder contains a finished run; an unfinished run is removed only with ' +
    '`resume_from_checkpoint: false`. Default: resume from its last checkpoint.'),
  logging_steps: to('fit.loggingSteps', interval().default(500),
    'Steps between log lines; below 1 a share of all steps.'),
  save_strategy: to('fit.saveStrategy', z.enum(['no', 'steps', 'epoch', 'best']).default('steps'),
    'When to write a checkpoint; `best`: after each evaluation that is the best so far.'),
  save_steps: to('fit.saveSteps', interval().default(500),
    'Steps between checkpoints; below 1 a share of all steps.'),
  save_total_limit: to('fit.saveTotalLimit', count().optional(),
    'Number of the newest checkpoints to keep. Default: all.'),
  load_best_model_at_end: to('fit.loadBestModelAtEnd', flag().default(false),
    'Use the weights of the best evaluation at the end.'),
  metric_for_best_model: to('fit.metricForBestModel', metricName().optional(),
    'Metric that decides which evaluation is the best: `loss`, `perplexity`, with `predict_with_generate` a score such ' +
    'as `rouge-l`, in `dpo` one of the rewards; the prefix `eval_` is accepted. Default `loss`.'),
  greater_is_better: to('fit.greaterIsBetter', flag().optional(),
    'Whether a greater value of that metric is better. Default: false for `loss` and `perplexity`, true for others.'),
  plot_loss: to('fit.plotLoss', flag().default(false), 'Draw the loss curves, as PNG and SVG.'),
  report_to: to('fit.reportTo', list().optional(),
    '`none`, `all`, or any of `tensorboard`, `csv`. Default `none`.',
    (named = []) => REPORTS.filter((report) => named.includes(report) || named.includes('all'))),
  resume_from_checkpoint: to('fit.resumeFromCheckpoint', z.union([z.boolean(), text()]).optional(),
    'Checkpoint to resume from, or the folder of a run for its last one; `true`: the last one in `output_dir`.'),
};

// biome-ignore format: a row for each key
const train = {
  per_device_train_batch_size: to('fit.batchSize', count().default(8), 'Examples in a batch.'),
  gradient_accumulation_steps: to('fit.gradientAccumulationSteps', count().default(1),
    'Batches of each rank in an optimizer step.'),
  learning_rate: to('optimizer.learningRate', z.number().min(0).default(5e-5), 'Peak learning rate of the schedule.'),
  num_train_epochs: to('fit.epochs', z.number().positive().default(3), 'Passes over the data; may be a fraction.'),
  max_steps: to('fit.maxSteps',
    z.int().refine((steps) => steps > 0 || steps === -1, 'an integer from 1, or -1').default(-1),
    'Number of optimizer steps; overrides `num_train_epochs`. −1: use the epochs.',
    (steps) => (steps > 0 ? steps : undefined)),
  lr_scheduler_type: z.enum(SCHEDULES).default('linear')
    .describe("Learning-rate schedule, by transformers' name."),
  lr_scheduler_kwargs: scheduleSettings().optional()
    .describe('Settings of the schedule, as in transformers: `num_cycles` for the cosines; `power` and `lr_end` for ' +
      '`polynomial`; `min_lr` or `min_lr_rate` for those with it in their name; `num_decay_steps` for ' +
      '`warmup_stable_decay` …'),
  warmup_ratio: to('warmup.ratio', fraction().default(0),
    'Share of all steps over which the learning rate rises from 0.'),
  warmup_steps: to('warmup.steps', countOrShare('steps').default(0),
    'Steps of the warm-up; overrides `warmup_ratio`; below 1 a share of all steps.'),
  optim: to('optimizer.name', text().default('adamw_torch'), "Optimizer, by transformers' name; see below."),
  use_muon: flag().default(false)
    .describe('Muon for matrices, and AdamW for the embedding, the head and vectors; overrides `optim`.'),
  weight_decay: to('optimizer.weightDecay', z.number().min(0).default(0),
    'Weight decay of matrices; biases and norms have none.'),
  adam_beta1: to('optimizer.beta1', z.number().min(0).lt(1).default(0.9), "Decay of the gradient's running mean."),
  adam_beta2: to('optimizer.beta2', z.number().min(0).lt(1).default(0.999),
    "Decay of the squared gradient's running mean."),
  adam_epsilon: to('optimizer.epsilon', z.number().positive().default(1e-8),
    'Added to the square root in the update.'),
  max_grad_norm: to('compile.maxGradNorm', z.number().min(0).default(1),
    'Largest global norm of the gradients; larger ones are clipped. 0: no clipping.',
    (norm) => (norm > 0 ? norm : undefined)),
  label_smoothing_factor: z.number().min(0).max(1).default(0)
    .describe('Share of the target that is spread over the whole vocabulary; `sft` and `pt`.'),
  use_dft_loss: flag().default(false)
    .describe('Dynamic Fine-Tuning: weigh the loss of each label by its probability; `sft`.'),
  use_asft_loss: flag().default(false)
    .describe('The DFT loss, and the divergence from the reference, see `ref_model`; `sft`.'),
  asft_alpha: z.number().min(0).default(0.1).describe('`use_asft_loss`: weight of the divergence.'),
  use_eaft_loss: flag().default(false)
    .describe('Weigh the loss of each label by the entropy of the 20 most likely tokens; `sft`.'),
  eaft_alpha: z.number().min(0).default(1).describe('`use_eaft_loss`: exponent of the weight.'),
  neftune_noise_alpha: to('model.neftuneNoiseAlpha', z.number().min(0).optional(),
    'NEFTune: size of random noise on the embedding while training, about 5 to 15; `sft` and `pt`. Default: none.',
    (alpha = 0) => alpha),
  bf16: flag().default(false)
    .describe('Keep the frozen base in bfloat16, and multiply in 16 bits if the backend can; trained weights are ' +
      'float32.'),
  fp16: flag().default(false)
    .describe('Keep the frozen base in float16, and multiply in 16 bits if the backend can; trained weights are ' +
      'float32.'),
  ddp_timeout: to('cluster.timeout', z.number().positive().default(1800),
    'Seconds after which a training on several cards fails if one of them does not respond.'),
  seed: to(['lora.seed', 'data.seed', 'prediction.seed', 'benchmark.seed'], z.int().min(0).default(42),
    'Seed for the initial adapter, shuffling and dropout.'),
  data_seed: z.int().min(0).optional().describe('Seed for shuffling. Default `seed`.'),
  disable_shuffling: to('fit.shuffle', flag().default(false),
    'Use the training data in its own order.', (isOff) => !isOff),
  group_by_length: to('fit.groupByLength', flag().default(false),
    'Put examples of similar length into a batch, to reduce padding.'),
};

// biome-ignore format: a row for each key
const evaluation = {
  eval_strategy: to('fit.evaluationStrategy', z.enum(['no', 'steps', 'epoch']).default('no'),
    'When to measure the loss on the evaluation data.'),
  eval_steps: interval().optional()
    .describe('Steps between evaluations; below 1 a share of all steps. Default `logging_steps`.'),
  per_device_eval_batch_size: to(['fit.validationBatchSize', 'prediction.batchSize'], count().default(8),
    'Examples in a batch when evaluating and predicting.'),
  early_stopping_steps: to('fit.earlyStoppingPatience', count().optional(),
    'Stop after this many evaluations in a row without improvement.'),
  predict_with_generate: to('fit.predictWithGenerate', flag().default(false),
    'Generate answers to the evaluation data and score them by BLEU and ROUGE: with `do_predict`, and at each ' +
    'evaluation of a training.'),
  eval_generate_samples: to('answers.samples', count().optional(),
    'Number of prompts, from the first, that an evaluation of a training answers. Default: all. LLaMA-Factory ' +
    'has no such key.'),
};

// biome-ignore format: a row for each key
const generation = {
  do_sample: to('generation.doSample', flag().default(true),
    'Sample tokens at random; false: always take the likeliest.'),
  temperature: to('generation.temperature', z.number().positive().default(0.95),
    'Sampling temperature; lower values favour likely tokens.'),
  top_p: to('generation.topP', z.number().gt(0).max(1).default(0.7),
    'Sample from the likeliest tokens with this total probability.'),
  top_k: to('generation.topK', z.int().min(0).default(50),
    'Sample from this many of the likeliest tokens; 0: from all.'),
  max_new_tokens: to('generation.maxNewTokens', count().default(1024), 'Length of the longest answer in tokens.'),
  repetition_penalty: to('generation.repetitionPenalty', z.number().positive().default(1),
    'Above 1: make repetition less likely.'),
  skip_special_tokens: to('generation.skipSpecialTokens', flag().default(true),
    'Leave special tokens out of the generated text.'),
};

// biome-ignore format: a row for each key
const benchmark = {
  task: to('benchmark.task', z.enum(BENCHMARK_TASKS).optional(),
    'Benchmark of knowledge that `eval` runs, and its split.'),
  task_dir: to('benchmark.taskDir', text().default('evaluation'),
    'Folder of the benchmarks: `mmlu/mapping.json` and `mmlu/mmlu.zip` (or its folders), and so on.'),
  lang: to('benchmark.language', z.enum(['en', 'zh']).default('en'), 'Language of the instructions around the questions.'),
  n_shot: to('benchmark.shots', z.int().min(0).default(5), 'Number of examples before each question.'),
  batch_size: to('benchmark.batchSize', count().optional(), 'Questions in a batch. Default 4.'),
  save_dir: to('benchmark.outputDir', text().optional(), 'New folder for `results.json` and `results.log`.'),
};

// biome-ignore format: a row for each key
const exporting = {
  export_dir: to('export.exportDir', text().optional(), 'Folder for the merged model that `export` writes.'),
  export_format: to('export.format', z.enum(['safetensors', 'gguf', 'gguf_adapter']).default('safetensors'),
    'What `export` writes: the merged model as a Hugging Face folder, or as a GGUF file for llama.cpp and Ollama; or ' +
      'the adapter alone as a GGUF file.'),
  export_gguf_type: to('export.ggufType', z.enum(GGUF_FILE_TYPES).optional(),
    "Type of the matrices in the GGUF file. Default: the model's own. An adapter can be f32 (default), f16 or bf16."),
  export_size: to('export.exportSizeGB', z.number().positive().default(5), 'Size of the largest shard, in GB.'),
  export_device: z.enum(['cpu', 'auto']).default('cpu').describe('Ignored; merging runs on the chosen backend.'),
  export_legacy_format: flag().default(false).describe('Must be false: weights are written as safetensors.'),
};

/** The keys by topic, in the order of the documentation. */
export const recipeSections = {
  model,
  method,
  dataset,
  output,
  train,
  evaluation,
  generation,
  benchmark,
  export: exporting,
};

const rows = {
  ...model,
  ...method,
  ...dataset,
  ...output,
  ...train,
  ...evaluation,
  ...generation,
  ...benchmark,
  ...exporting,
};

type Rows = typeof rows;
type SchemaOf<Row> = Row extends PlacedKey<infer Schema, string, unknown> ? Schema : Row;
type Shape = {[key in keyof Rows]: SchemaOf<Rows[key]> extends z.ZodType ? SchemaOf<Rows[key]> : never};

const isPlaced = (row: object): row is PlacedKey<z.ZodType, string, unknown> => 'targets' in row;

/** Schema of a complete recipe; it refuses unknown keys. */
export const recipeSchema = z.strictObject(
  Object.fromEntries(
    Object.entries<object>(rows).map(([key, row]) => [key, isPlaced(row) ? row.schema : row]),
  ) as unknown as Shape,
);

/** A recipe's values under LLaMA-Factory's names, with defaults filled in. */
export type RecipeKeys = z.output<typeof recipeSchema>;

/** The arguments that a recipe's values become, by the name of the call. */
export type RecipeArguments = PlacedBy<Rows>;

/** Converts a recipe's values to arguments, each by its row of the table. */
export function argumentsOf(keys: RecipeKeys): RecipeArguments {
  const calls: Record<string, Record<string, unknown>> = {};
  for (const [key, row] of Object.entries<object>(rows)) {
    if (!isPlaced(row)) continue;
    const value = row.convert(keys[key as keyof RecipeKeys]);
    for (const target of row.targets) {
      const [call, name] = target.split('.');
      calls[call] ??= {};
      calls[call][name] = value;
    }
  }
  return calls as RecipeArguments;
}
