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
      'PEFT folders or hub names, in order. Training goes on with the last one and merges those before it; ' +
        'exporting and predicting merge all.',
    ),
  cache_dir: text()
    .optional()
    .describe('Where models from the hub are kept. Default: the standard hub cache.'),
  model_revision: text().default('main').describe('Branch, tag or commit of a model on the hub.'),
  hf_hub_token: text().optional().describe('For private models on the hub. Default: HF_TOKEN.'),
  infer_dtype: z
    .enum(['auto', 'float16', 'bfloat16', 'float32'])
    .default('auto')
    .describe("How an exported model's weights are stored; `auto`: as in the source."),
  disable_gradient_checkpointing: flag()
    .default(false)
    .describe('Keep activations instead of computing each block again: faster, and more memory.'),
  use_unsloth_gc: flag()
    .default(false)
    .describe(
      'Keep the inputs of blocks, from which they are computed again, in memory of the host: on an NVIDIA card less of its ' +
        'memory for about the same time.',
    ),
  quantization_bit: z
    .union([z.literal(4), z.literal(8)])
    .optional()
    .describe('Quantize the frozen base while loading it: QLoRA. LoRA only.'),
  quantization_method: z
    .enum(['bitsandbytes', 'bnb'])
    .default('bitsandbytes')
    .describe('The only method that quantizes while loading here.'),
  quantization_type: z.enum(['nf4', 'fp4']).default('nf4').describe('Of 4 bits.'),
  double_quantization: flag().default(true).describe('Of 4 bits: quantize the scales too.'),
};

const method = {
  stage: z
    .enum(['sft', 'pt', 'rm', 'ppo', 'dpo', 'kto'])
    .default('sft')
    .describe('`sft` learns answers, `pt` plain text; the others are not built yet.'),
  do_train: flag().default(false).describe('Train.'),
  do_eval: flag()
    .default(false)
    .describe('Measure the loss on the evaluation data at the end. On where `eval_strategy` is not `no`.'),
  do_predict: flag()
    .default(false)
    .describe('Generate answers to the evaluation data and score them; needs `predict_with_generate`.'),
  finetuning_type: z
    .enum(['lora', 'full', 'freeze', 'oft'])
    .default('lora')
    .describe('Adapters, all weights, or some layers. `oft` is not built yet.'),
  lora_rank: count().default(8).describe('Rank of the update.'),
  lora_alpha: z
    .number()
    .positive()
    .optional()
    .describe('The update is scaled by alpha / rank. Default 2 · `lora_rank`.'),
  lora_dropout: z.number().min(0).lt(1).default(0).describe("Dropout of the adapter's input."),
  lora_target: list()
    .optional()
    .describe('`all` (every linear layer but the head), or names of layers. Default `all`.'),
  use_rslora: flag().default(false).describe('Scale by alpha / √rank.'),
  use_dora: flag().default(false).describe('DoRA: train the magnitude of each output apart.'),
  loraplus_lr_ratio: z.number().positive().optional().describe("LoRA+: B's learning rate over A's."),
  create_new_adapter: flag()
    .default(false)
    .describe(
      'Merge all of `adapter_name_or_path` and train a new adapter, instead of training the last one on.',
    ),
  freeze_trainable_layers: z
    .int()
    .refine((layers) => layers !== 0, 'an integer other than 0')
    .default(2)
    .describe('`freeze`: the last n blocks train; the first n where negative.'),
  freeze_trainable_modules: list()
    .optional()
    .describe('`freeze`: modules of these blocks, such as `self_attn, mlp`. Default `all`.'),
  freeze_extra_modules: list()
    .optional()
    .describe('`freeze`: modules outside the blocks that train too: `embed_tokens`, `norm`, `lm_head`.'),
  pure_bf16: flag().default(false).describe('As `bf16`; what trains stays float32 here.'),
};

const dataset = {
  dataset: list().optional().describe('Names in `dataset_info.json`; several are mixed by `mix_strategy`.'),
  eval_dataset: list()
    .optional()
    .describe('Names of data to evaluate and predict on; instead of `val_size`.'),
  dataset_dir: text()
    .default('data')
    .describe('Folder of `dataset_info.json` and its files; `ONLINE`: names are of the hub.'),
  template: text()
    .optional()
    .describe("Chat format, such as `llama3`. Default: the model's own chat template."),
  default_system: text().optional().describe('System message where a conversation has none of its own.'),
  enable_thinking: flag()
    .default(true)
    .describe(
      "False is refused where the model's own chat template writes `<think>`; no other template here does.",
    ),
  preserve_thinking: flag().default(false).describe('True is refused where `enable_thinking: false` is.'),
  cutoff_len: count().default(2048).describe('Longer examples are cut to so many tokens.'),
  max_samples: count().optional().describe('At most so many examples of each dataset.'),
  train_on_prompt: flag().default(false).describe('Learn the prompt too.'),
  mask_history: flag().default(false).describe('Learn the last answer of a conversation only.'),
  packing: flag()
    .optional()
    .describe('Several examples in one row, each seeing itself only. Default: for `pt` only.'),
  neat_packing: flag()
    .default(false)
    .describe('The same as `packing`: packed examples never see each other here.'),
  streaming: flag().default(false).describe('Read the data while training, for files larger than memory.'),
  buffer_size: count().default(16384).describe('`streaming`: shuffle among so many examples.'),
  mix_strategy: z
    .enum(['concat', 'interleave_under', 'interleave_over', 'interleave_once'])
    .default('concat')
    .describe(
      'One dataset after the other, or drawn in turns until the first or the last is used up, or each once.',
    ),
  interleave_probs: z
    .union([text(), z.array(z.number()), z.number()])
    .transform((value) => [value].flat().flatMap((part) => splitList(String(part)).map(Number)))
    .refine(
      (probabilities) => probabilities.every((probability) => probability >= 0 && probability <= 1),
      'numbers from 0 to 1, comma separated',
    )
    .optional()
    .describe('Chance of each dataset when interleaving, comma separated.'),
  overwrite_cache: flag().default(false).describe('Tokenize anew even where a cached result fits.'),
  preprocessing_num_workers: count()
    .optional()
    .describe('Threads that tokenize. Default: as the machine has.'),
  val_size: z
    .number()
    .min(0)
    .refine((size) => size < 1 || Number.isInteger(size), 'a whole number of examples, or a share below 1')
    .default(0)
    .describe('Held out of the training data for evaluation: a share below 1, or a number of examples.'),
};

const output = {
  output_dir: text().optional().describe('Where adapter, checkpoints, logs and plots go.'),
  overwrite_output_dir: flag()
    .default(false)
    .describe(
      'Start afresh where the folder holds a finished run; an unfinished one goes only with `resume_from_checkpoint: false`. ' +
        'Default: go on from its last checkpoint.',
    ),
  logging_steps: interval().default(500).describe('Steps between log lines; below 1 a share of all steps.'),
  save_strategy: z.enum(['no', 'steps', 'epoch']).default('steps').describe('When to write a checkpoint.'),
  save_steps: interval().default(500).describe('Steps between checkpoints; below 1 a share of all steps.'),
  save_total_limit: count().optional().describe('Keep so many checkpoints, the newest. Default: all.'),
  load_best_model_at_end: flag().default(false).describe('End with the weights of the best evaluation.'),
  metric_for_best_model: z
    .enum(['loss', 'eval_loss'])
    .optional()
    .describe('What the best evaluation is judged by. Default `loss`.'),
  plot_loss: flag().default(false).describe('Draw the loss curves, as PNG and SVG.'),
  report_to: list().optional().describe('`none`, `all`, or any of `tensorboard`, `csv`. Default `none`.'),
  resume_from_checkpoint: z
    .union([z.boolean(), text()])
    .optional()
    .describe(
      'A checkpoint to go on from, or the folder of a run, for its last; `true`: the last in `output_dir`.',
    ),
};

const train = {
  per_device_train_batch_size: count().default(8).describe('Examples in a batch.'),
  gradient_accumulation_steps: count().default(1).describe('Batches in an optimizer step.'),
  learning_rate: z.number().min(0).default(5e-5).describe('The highest of the schedule.'),
  num_train_epochs: z.number().positive().default(3).describe('Passes over the data; may be a fraction.'),
  max_steps: z
    .int()
    .refine((steps) => steps > 0 || steps === -1, 'an integer from 1, or -1')
    .default(-1)
    .describe('Stop after so many steps, whatever the epochs; −1: by epochs.'),
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
    .describe("transformers' schedule of that name."),
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
      "The schedule's own settings, as in transformers: `num_cycles` of the cosines; `power` and `lr_end` of `polynomial`; " +
        '`min_lr` or `min_lr_rate` of those named after it; `num_decay_steps` of `warmup_stable_decay` …',
    ),
  warmup_ratio: fraction()
    .default(0)
    .describe('Share of all steps over which the learning rate rises from 0.'),
  warmup_steps: z
    .number()
    .min(0)
    .refine((steps) => steps < 1 || Number.isInteger(steps), 'a whole number of steps, or a share below 1')
    .default(0)
    .describe('Steps of the warm-up, before `warmup_ratio`; below 1 a share of all steps.'),
  optim: text().default('adamw_torch').describe("transformers' name of the optimizer; see below."),
  weight_decay: z.number().min(0).default(0).describe('Of matrices; biases and norms are not decayed.'),
  adam_beta1: z.number().min(0).lt(1).default(0.9).describe("Decay of the gradient's running mean."),
  adam_beta2: z
    .number()
    .min(0)
    .lt(1)
    .default(0.999)
    .describe("Decay of the squared gradient's running mean."),
  adam_epsilon: z.number().positive().default(1e-8).describe('Added to the root.'),
  max_grad_norm: z.number().min(0).default(1).describe('Clip the global norm of the gradients; 0: never.'),
  bf16: flag()
    .default(false)
    .describe(
      'Keep the frozen base in bfloat16, and multiply in 16 bits where the backend can; what trains is float32.',
    ),
  fp16: flag()
    .default(false)
    .describe(
      'Keep the frozen base in float16, and multiply in 16 bits where the backend can; what trains is float32.',
    ),
  seed: z.int().min(0).default(42).describe("Of the adapter's draw, the shuffles and dropout."),
  data_seed: z.int().min(0).optional().describe('Of the shuffles alone. Default `seed`.'),
  disable_shuffling: flag().default(false).describe('Take the training data in its own order.'),
  group_by_length: flag().default(false).describe('Batches of similar length: less padding.'),
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
    .describe('Stop after so many evaluations in a row without a better one.'),
  predict_with_generate: flag().default(false).describe('Predict by generating answers.'),
};

const generation = {
  do_sample: flag().default(true).describe('Draw tokens at random; false: always the likeliest.'),
  temperature: z.number().positive().default(0.95).describe('Sharpness of the draw.'),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(0.7)
    .describe('Draw among the likeliest tokens that make up this share.'),
  top_k: z.int().min(0).default(50).describe('Draw among so many tokens; 0: among all.'),
  max_new_tokens: count().default(1024).describe('The longest answer.'),
  repetition_penalty: z.number().positive().default(1).describe('Above 1: make repetition less likely.'),
  skip_special_tokens: flag().default(true).describe('Leave special tokens out of the generated text.'),
};

const exporting = {
  export_dir: text().optional().describe('Where `export` writes the merged model.'),
  export_size: z.number().positive().default(5).describe('The largest shard, in GB.'),
  export_device: z
    .enum(['cpu', 'auto'])
    .default('cpu')
    .describe('Accepted; merging runs on the chosen backend.'),
  export_legacy_format: flag().default(false).describe('Only false: weights are written as safetensors.'),
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
