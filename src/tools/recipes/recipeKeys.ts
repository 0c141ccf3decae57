import {z} from 'zod';

/*
 * Every key of a recipe that means something here: LLaMA-Factory's names, meanings and defaults. The JSON schema for
 * editors, the table in docs/recipes.md and the messages for wrong values are made from what stands here.
 */

const flag = () => z.boolean();
const text = () => z.string().min(1);
const count = () => z.int().positive();
const fraction = () => z.number().min(0).max(1);
/** Below 1 a share of the run's steps, as in transformers. */
const interval = () =>
  z
    .number()
    .positive()
    .refine((steps) => steps < 1 || Number.isInteger(steps), 'a whole number of steps, or a share below 1');
/** A comma separated text, or a YAML list. */
const list = () => z.union([text(), z.array(text())]).transform(splitList);

function splitList(value: string | string[]): string[] {
  const parts = typeof value === 'string' ? value.split(',') : value;
  return parts.map((part) => part.trim()).filter((part) => part !== '');
}

const model = {
  model_name_or_path: text().describe('A Hugging Face folder, or the name of a model on the hub.'),
  adapter_name_or_path: list()
    .optional()
    .describe(
      'PEFT folders or hub names, in order. Training continues the last one and merges those before it; ' +
        'exporting and predicting merge all.',
    ),
  cache_dir: text().optional().describe('Folder for models from the hub. Default: the standard hub cache.'),
  model_revision: text().default('main').describe('Branch, tag or commit of a model on the hub.'),
  hf_hub_token: text().optional().describe('Token for private models on the hub. Default: HF_TOKEN.'),
  infer_dtype: z
    .enum(['auto', 'float16', 'bfloat16', 'float32'])
    .default('auto')
    .describe('Storage type of the weights of an exported model; `auto`: the same as the source.'),
  disable_gradient_checkpointing: flag()
    .default(false)
    .describe('Keep activations instead of computing each block again: faster, but takes more memory.'),
  use_unsloth_gc: flag()
    .default(false)
    .describe(
      'Keep the inputs of blocks, from which blocks are computed again, in host memory: on an NVIDIA card this saves card ' +
        'memory at about the same speed.',
    ),
  quantization_bit: z
    .union([z.literal(4), z.literal(8)])
    .optional()
    .describe('Quantize the frozen base while loading it: QLoRA. LoRA only.'),
  quantization_method: z
    .enum(['bitsandbytes', 'bnb'])
    .default('bitsandbytes')
    .describe('The only method that is supported for quantizing while loading.'),
  quantization_type: z.enum(['nf4', 'fp4']).default('nf4').describe('Format of 4-bit weights.'),
  double_quantization: flag().default(true).describe('4 bits: quantize the scales too.'),
};

const method = {
  stage: z
    .enum(['sft', 'pt', 'rm', 'ppo', 'dpo', 'kto'])
    .default('sft')
    .describe('`sft` learns answers, `pt` plain text; the others are not supported yet.'),
  do_train: flag().default(false).describe('Train.'),
  do_eval: flag()
    .default(false)
    .describe(
      'Measure the loss on the evaluation data at the end. Always true if `eval_strategy` is not `no`.',
    ),
  do_predict: flag()
    .default(false)
    .describe('Generate answers to the evaluation data and score them; needs `predict_with_generate`.'),
  finetuning_type: z
    .enum(['lora', 'full', 'freeze', 'oft'])
    .default('lora')
    .describe('Train adapters, all weights, or some layers. `oft` is not supported yet.'),
  lora_rank: count().default(8).describe('Rank of the update.'),
  lora_alpha: z
    .number()
    .positive()
    .optional()
    .describe('The update is scaled by alpha / rank. Default 2 · `lora_rank`.'),
  lora_dropout: z.number().min(0).lt(1).default(0).describe("Dropout on the adapter's input."),
  lora_target: list()
    .optional()
    .describe('`all` (every linear layer except the head), or names of layers. Default `all`.'),
  use_rslora: flag().default(false).describe('Scale by alpha / √rank.'),
  use_dora: flag().default(false).describe('DoRA: train the magnitude of each output separately.'),
  loraplus_lr_ratio: z
    .number()
    .positive()
    .optional()
    .describe('LoRA+: learning rate of B divided by that of A.'),
  create_new_adapter: flag()
    .default(false)
    .describe(
      'Merge all of `adapter_name_or_path` and train a new adapter instead of continuing the last one.',
    ),
  freeze_trainable_layers: z
    .int()
    .refine((layers) => layers !== 0, 'an integer other than 0')
    .default(2)
    .describe('`freeze`: the last n blocks train; the first n if negative.'),
  freeze_trainable_modules: list()
    .optional()
    .describe('`freeze`: modules of these blocks, such as `self_attn, mlp`. Default `all`.'),
  freeze_extra_modules: list()
    .optional()
    .describe('`freeze`: modules outside the blocks that train too: `embed_tokens`, `norm`, `lm_head`.'),
  pure_bf16: flag().default(false).describe('The same as `bf16`; trained weights stay float32 here.'),
};

const dataset = {
  dataset: list()
    .optional()
    .describe('Names in `dataset_info.json`; `mix_strategy` says how several are mixed.'),
  eval_dataset: list()
    .optional()
    .describe('Names of data sets for evaluation and prediction, instead of `val_size`.'),
  dataset_dir: text()
    .default('data')
    .describe('Folder of `dataset_info.json` and its files; `ONLINE`: names are names on the hub.'),
  template: text()
    .optional()
    .describe("Chat format, such as `llama3`. Default: the model's own chat template."),
  default_system: text().optional().describe('System message for conversations without one.'),
  enable_thinking: flag()
    .default(true)
    .describe(
      "False is refused if the model's own chat template writes `<think>`; no other template here does.",
    ),
  preserve_thinking: flag()
    .default(false)
    .describe('True is refused if `enable_thinking: false` is refused.'),
  cutoff_len: count().default(2048).describe('Longest example in tokens; longer ones are cut.'),
  max_samples: count().optional().describe('Largest number of examples from each data set.'),
  train_on_prompt: flag().default(false).describe('Learn the prompt too.'),
  mask_history: flag().default(false).describe('Learn the last answer of a conversation only.'),
  packing: flag()
    .optional()
    .describe('Put several examples into one row; each attends only to itself. Default: only for `pt`.'),
  neat_packing: flag()
    .default(false)
    .describe('The same as `packing`: packed examples never attend to each other here.'),
  streaming: flag().default(false).describe('Read the data while training, for files larger than memory.'),
  buffer_size: count().default(16384).describe('`streaming`: number of examples in the shuffle buffer.'),
  mix_strategy: z
    .enum(['concat', 'interleave_under', 'interleave_over', 'interleave_once'])
    .default('concat')
    .describe(
      'One data set after the other, or in turns until the first or the last is used up, or each example once.',
    ),
  interleave_probs: z
    .union([text(), z.array(z.number()), z.number()])
    .transform((value) => [value].flat().flatMap((part) => splitList(String(part)).map(Number)))
    .refine(
      (probabilities) => probabilities.every((probability) => probability >= 0 && probability <= 1),
      'numbers from 0 to 1, comma separated',
    )
    .optional()
    .describe('Probability of each data set when interleaving, comma separated.'),
  overwrite_cache: flag().default(false).describe('Tokenize again even if a cached result exists.'),
  preprocessing_num_workers: count()
    .optional()
    .describe('Number of threads that tokenize. Default: one for each processor.'),
  val_size: z
    .number()
    .min(0)
    .refine((size) => size < 1 || Number.isInteger(size), 'a whole number of examples, or a share below 1')
    .default(0)
    .describe(
      'Part of the training data that is held out for evaluation: a share below 1, or a number of examples.',
    ),
};

const output = {
  output_dir: text().optional().describe('Folder for the adapter, checkpoints, logs and plots.'),
  overwrite_output_dir: flag()
    .default(false)
    .describe(
      'Start over if the folder holds a finished run; an unfinished one is only removed with `resume_from_checkpoint: false`. ' +
        'Default: resume from its last checkpoint.',
    ),
  logging_steps: interval().default(500).describe('Steps between log lines; below 1 a share of all steps.'),
  save_strategy: z.enum(['no', 'steps', 'epoch']).default('steps').describe('When to write a checkpoint.'),
  save_steps: interval().default(500).describe('Steps between checkpoints; below 1 a share of all steps.'),
  save_total_limit: count().optional().describe('Number of checkpoints to keep, the newest. Default: all.'),
  load_best_model_at_end: flag().default(false).describe('End with the weights of the best evaluation.'),
  metric_for_best_model: z
    .enum(['loss', 'eval_loss'])
    .optional()
    .describe('Metric that decides which evaluation is the best. Default `loss`.'),
  plot_loss: flag().default(false).describe('Draw the loss curves, as PNG and SVG.'),
  report_to: list().optional().describe('`none`, `all`, or any of `tensorboard`, `csv`. Default `none`.'),
  resume_from_checkpoint: z
    .union([z.boolean(), text()])
    .optional()
    .describe(
      'Checkpoint to resume from, or the folder of a run for its last one; `true`: the last one in `output_dir`.',
    ),
};

const train = {
  per_device_train_batch_size: count().default(8).describe('Examples in a batch.'),
  gradient_accumulation_steps: count().default(1).describe('Batches in an optimizer step.'),
  learning_rate: z.number().min(0).default(5e-5).describe('Peak learning rate of the schedule.'),
  num_train_epochs: z.number().positive().default(3).describe('Passes over the data; may be a fraction.'),
  max_steps: z
    .int()
    .refine((steps) => steps > 0 || steps === -1, 'an integer from 1, or -1')
    .default(-1)
    .describe('Number of optimizer steps; overrides `num_train_epochs`. −1: use the epochs.'),
  lr_scheduler_type: z
    .enum([
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
    ])
    .default('linear')
    .describe("Learning-rate schedule, by transformers' name."),
  lr_scheduler_kwargs: z
    .strictObject({
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
    })
    .optional()
    .describe(
      'Settings of the schedule, as in transformers: `num_cycles` for the cosines; `power` and `lr_end` for `polynomial`; ' +
        '`min_lr` or `min_lr_rate` for those with it in their name; `num_decay_steps` for `warmup_stable_decay` …',
    ),
  warmup_ratio: fraction()
    .default(0)
    .describe('Share of all steps over which the learning rate rises from 0.'),
  warmup_steps: z
    .number()
    .min(0)
    .refine((steps) => steps < 1 || Number.isInteger(steps), 'a whole number of steps, or a share below 1')
    .default(0)
    .describe('Steps of the warm-up; overrides `warmup_ratio`; below 1 a share of all steps.'),
  optim: text().default('adamw_torch').describe("Optimizer, by transformers' name; see below."),
  weight_decay: z
    .number()
    .min(0)
    .default(0)
    .describe('Weight decay of matrices; biases and norms have none.'),
  adam_beta1: z.number().min(0).lt(1).default(0.9).describe("Decay of the gradient's running mean."),
  adam_beta2: z
    .number()
    .min(0)
    .lt(1)
    .default(0.999)
    .describe("Decay of the squared gradient's running mean."),
  adam_epsilon: z.number().positive().default(1e-8).describe('Added to the square root in the update.'),
  max_grad_norm: z
    .number()
    .min(0)
    .default(1)
    .describe('Largest global norm of the gradients; larger ones are clipped. 0: no clipping.'),
  bf16: flag()
    .default(false)
    .describe(
      'Keep the frozen base in bfloat16, and multiply in 16 bits if the backend can; trained weights are float32.',
    ),
  fp16: flag()
    .default(false)
    .describe(
      'Keep the frozen base in float16, and multiply in 16 bits if the backend can; trained weights are float32.',
    ),
  seed: z.int().min(0).default(42).describe('Seed for the initial adapter, shuffling and dropout.'),
  data_seed: z.int().min(0).optional().describe('Seed for shuffling. Default `seed`.'),
  disable_shuffling: flag().default(false).describe('Use the training data in its own order.'),
  group_by_length: flag()
    .default(false)
    .describe('Put examples of similar length into a batch: less padding.'),
};

const evaluation = {
  eval_strategy: z
    .enum(['no', 'steps', 'epoch'])
    .default('no')
    .describe('When to measure the loss on the evaluation data.'),
  eval_steps: interval()
    .optional()
    .describe('Steps between evaluations; below 1 a share of all steps. Default `logging_steps`.'),
  per_device_eval_batch_size: count()
    .default(8)
    .describe('Examples in a batch when evaluating and predicting.'),
  early_stopping_steps: count()
    .optional()
    .describe('Stop after this many evaluations in a row without improvement.'),
  predict_with_generate: flag().default(false).describe('Predict by generating answers.'),
};

const generation = {
  do_sample: flag().default(true).describe('Sample tokens at random; false: always take the likeliest.'),
  temperature: z
    .number()
    .positive()
    .default(0.95)
    .describe('Sampling temperature; lower values favour likely tokens.'),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(0.7)
    .describe('Sample from the likeliest tokens with this total probability.'),
  top_k: z.int().min(0).default(50).describe('Sample from this many of the likeliest tokens; 0: from all.'),
  max_new_tokens: count().default(1024).describe('Length of the longest answer in tokens.'),
  repetition_penalty: z.number().positive().default(1).describe('Above 1: make repetition less likely.'),
  skip_special_tokens: flag().default(true).describe('Leave special tokens out of the generated text.'),
};

const exporting = {
  export_dir: text().optional().describe('Folder for the merged model that `export` writes.'),
  export_size: z.number().positive().default(5).describe('Size of the largest shard, in GB.'),
  export_device: z
    .enum(['cpu', 'auto'])
    .default('cpu')
    .describe('Ignored; merging runs on the chosen backend.'),
  export_legacy_format: flag().default(false).describe('Must be false: weights are written as safetensors.'),
};

/** The keys by what they are about, in the order of the documentation. */
export const recipeSections = {
  model,
  method,
  dataset,
  output,
  train,
  evaluation,
  generation,
  export: exporting,
};

/** A whole recipe, unknown keys refused. */
export const recipeSchema = z.strictObject({
  ...model,
  ...method,
  ...dataset,
  ...output,
  ...train,
  ...evaluation,
  ...generation,
  ...exporting,
});

/** A recipe's values under LLaMA-Factory's names, defaults filled in. */
export type RecipeKeys = z.output<typeof recipeSchema>;
