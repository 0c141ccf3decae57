import {nearestNames, TfjsLoraError} from './errors.ts';

/**
 * Every option that a call takes, each with its declaration or `true`. The type keeps the list complete:
 * `{rank: true, …} satisfies OptionNames<Args>`.
 */
export type OptionNames<T> = {readonly [name in keyof Required<T>]: true | object};

/**
 * Other libraries' names for our options: PEFT, transformers, TRL, LLaMA-Factory, Unsloth, bitsandbytes, Keras.
 * Names that differ from ours only in `snake_case` need no entry.
 */
const FOREIGN_NAMES: Readonly<Record<string, string>> = {
  r: 'rank',
  lora_r: 'rank',
  lora_rank: 'rank',
  lora_alpha: 'alpha',
  lora_dropout: 'dropout',
  lora_target: 'targetModules',
  target: 'targetModules',
  targets: 'targetModules',
  rslora: 'useRsLoRA',
  dora: 'useDoRA',
  init_lora_weights: 'init',
  random_state: 'seed',
  lr: 'learningRate',
  beta_1: 'beta1',
  beta_2: 'beta2',
  adam_beta1: 'beta1',
  adam_beta2: 'beta2',
  adam_epsilon: 'epsilon',
  eps: 'epsilon',
  loraplus_lr_ratio: 'loraPlusRatio',
  min_8bit_size: 'min8bitSize',
  optim: 'optimizer',
  lr_scheduler: 'schedule',
  lr_scheduler_type: 'schedule',
  clipnorm: 'maxGradNorm',
  global_clipnorm: 'maxGradNorm',
  clip_grad_norm: 'maxGradNorm',
  num_warmup_steps: 'warmupSteps',
  num_training_steps: 'totalSteps',
  num_cycles: 'cycles',
  quantization_bit: 'quantization',
  quantization_config: 'quantization',
  torch_dtype: 'dtype',
  bnb_4bit_quant_type: 'type',
  quant_type: 'type',
  bnb_4bit_use_double_quant: 'doubleQuant',
  double_quantization: 'doubleQuant',
  bnb_4bit_compute_dtype: 'computeDtype',
  compress_statistics: 'doubleQuant',
  llm_int8_threshold: 'threshold',
  llm_int8_skip_modules: 'skipModules',
  modules_to_not_convert: 'skipModules',
  search: 'absmaxSearch',
  blocksize: 'blockSize',
  use_gradient_checkpointing: 'gradientCheckpointing',
  per_device_train_batch_size: 'batchSize',
  train_batch_size: 'batchSize',
  per_device_eval_batch_size: 'validationBatchSize',
  num_train_epochs: 'epochs',
  num_epochs: 'epochs',
  max_epochs: 'epochs',
  gradient_accumulation: 'gradientAccumulationSteps',
  grad_accumulation_steps: 'gradientAccumulationSteps',
  eval_dataset: 'validationData',
  eval_strategy: 'evaluationStrategy',
  eval_steps: 'evaluationSteps',
  validation_split: 'valSize',
  cutoff_len: 'cutoffLength',
  max_length: 'cutoffLength',
  max_seq_length: 'cutoffLength',
  max_seq_len: 'cutoffLength',
  chat_template: 'template',
  max_tokens: 'maxNewTokens',
  stop: 'stopStrings',
  stop_sequences: 'stopStrings',
  max_shard_size: 'maxShardBytes',
  export_size: 'maxShardBytes',
  is_trainable: 'trainable',
  num_threads: 'threads',
  n_threads: 'threads',
};

/** The call that takes an option, for options that are often passed to the wrong call. */
const TAKEN_BY: Readonly<Record<string, string>> = {
  rank: 'applyLoRA({rank: 8})',
  alpha: 'applyLoRA({alpha: 16})',
  dropout: 'applyLoRA({dropout: 0.1})',
  targetModules: "applyLoRA({targetModules: ['q_proj', 'v_proj']})",
  useRsLoRA: 'applyLoRA({useRsLoRA: true})',
  useDoRA: 'applyLoRA({useDoRA: true})',
  init: "applyLoRA({init: 'gaussian'})",
  learningRate: 'compile({optimizer: new AdamW({learningRate: 1e-4})})',
  weightDecay: 'compile({optimizer: new AdamW({weightDecay: 0.01})})',
  beta1: 'compile({optimizer: new AdamW({beta1: 0.9, beta2: 0.999})})',
  beta2: 'compile({optimizer: new AdamW({beta1: 0.9, beta2: 0.999})})',
  epsilon: 'compile({optimizer: new AdamW({epsilon: 1e-8})})',
  loraPlusRatio: 'compile({optimizer: new AdamW({loraPlusRatio: 16})})',
  min8bitSize: 'compile({optimizer: new AdamW8bit({min8bitSize: 4096})})',
  optimizer: 'compile({optimizer: new AdamW({learningRate: 1e-4})})',
  schedule: "compile({schedule: 'cosine'})",
  maxGradNorm: 'compile({maxGradNorm: 1})',
  warmupSteps: "compile({schedule: {name: 'linear', warmupSteps: 10}})",
  warmupRatio: "compile({schedule: {name: 'linear', warmupRatio: 0.03}})",
  quantization: "fromPretrained(folder, {quantization: {type: 'nf4'}}), or {type: 'int8'}",
  dtype: "fromPretrained(folder, {dtype: 'bfloat16'})",
  doubleQuant: "quantization: {type: 'nf4', doubleQuant: true}",
  blockSize: "quantization: {type: 'nf4', blockSize: 64}",
  absmaxSearch: "quantization: {type: 'nf4', doubleQuant: true, absmaxSearch: 'table'}",
  threshold: "quantization: {type: 'int8', threshold: 6}",
  skipModules: "quantization: {type: 'nf4', skipModules: ['lm_head']}",
  computeDtype: "useBackend('auto', {computeDtype: 'float16'})",
  type: "quantization: {type: 'nf4'}",
  gradientCheckpointing: 'model.gradientCheckpointing = true',
  batchSize: 'fitDataset(data, {batchSize: 4})',
  validationBatchSize: 'fitDataset(data, {validationBatchSize: 4})',
  epochs: 'fitDataset(data, {epochs: 1})',
  maxSteps: 'fitDataset(data, {maxSteps: 100})',
  gradientAccumulationSteps: 'fitDataset(data, {gradientAccumulationSteps: 8})',
  validationData: 'fitDataset(data, {validationData})',
  evaluationStrategy: "fitDataset(data, {evaluationStrategy: 'steps'})",
  evaluationSteps: 'fitDataset(data, {evaluationSteps: 100})',
  outputDir: "fitDataset(data, {outputDir: 'out'})",
  callbacks: 'fitDataset(data, {callbacks})',
  shuffle: 'fitDataset(data, {shuffle: true})',
  valSize: 'splitValidation(examples, 0.1), then fitDataset(data, {validationData})',
  cutoffLength: 'loadDataset({cutoffLength: 2048}) or model.dataset(records, {cutoffLength: 2048})',
  template: "loadDataset({template: 'llama3'}) or model.dataset(records, {template: 'llama3'})",
  trainOnPrompt: 'model.dataset(records, {trainOnPrompt: true})',
  maskHistory: 'model.dataset(records, {maskHistory: true})',
  packing: 'loadDataset({packing: true}) or model.dataset(records, {packing: true})',
  maxNewTokens: 'generate(prompt, {maxNewTokens: 128})',
  doSample: 'generate(prompt, {doSample: true})',
  temperature: 'generate(prompt, {temperature: 0.7})',
  topK: 'generate(prompt, {topK: 50})',
  topP: 'generate(prompt, {topP: 0.9})',
  adapterName: "applyLoRA({adapterName: 'default'}) or loadAdapter(folder, {adapterName: 'default'})",
  trainable: 'loadAdapter(folder, {trainable: true})',
  maxShardBytes: 'save(folder, {maxShardBytes: 5e9})',
  threads: "useBackend('wasm', {threads: 4})",
};

/** Advice for an option that has no single counterpart here with the same kind of value. */
const ADVICE: Readonly<Record<string, string>> = {
  load_in_4bit: "Use fromPretrained(folder, {quantization: {type: 'nf4'}}).",
  load_in_8bit: "Use fromPretrained(folder, {quantization: {type: 'int8'}}).",
  betas: 'Use beta1 and beta2.',
  loss: 'The model computes its own loss, cross-entropy over the labels.',
  metrics: 'evaluateDataset(data) gives loss and perplexity, predictDataset(data) ROUGE and BLEU.',
  bf16: 'useBackend chooses the dtype of computations, fromPretrained(folder, {dtype}) that of the stored weights.',
  fp16: 'useBackend chooses the dtype of computations, fromPretrained(folder, {dtype}) that of the stored weights.',
  device_map: 'useBackend chooses the device.',
  device: 'useBackend chooses the device.',
  bias: 'Biases are frozen here, as PEFT has it with bias "none".',
  task_type: 'Every model here is a causal language model: leave it out.',
  trust_remote_code: 'No code is loaded from a model folder: leave it out.',
};

/**
 * Refuses options that a call does not have: a typo, another library's spelling, an option of another call. An option
 * whose value is undefined passes.
 *
 * @param call name of the function, for messages: `applyLoRA`
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the option and the right one
 */
export function assertKnownOptions(call: string, options: unknown, known: OptionNames<object>): void {
  if (options === undefined) return;
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    const got = options === null ? 'null' : Array.isArray(options) ? 'an array' : `a ${typeof options}`;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} options: expected an object such as {${Object.keys(known)[0] ?? ''}: …}, got ${got}`,
    );
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || Object.hasOwn(known, name)) continue;
    const names = Object.keys(known);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} ${name.slice(0, LONGEST_NAME)}: expected ${listOf(names)}, got an option that ${call} does not have. ` +
        adviceFor(name.slice(0, LONGEST_NAME), names),
    );
  }
}

/** Characters of an unknown option's name in a message. It is more than any real option needs. */
const LONGEST_NAME = 60;

/** A class that lists the options of its constructor. */
interface WithOptionNames {
  readonly name: string;
  readonly optionNames?: OptionNames<object>;
}

/**
 * Does what {@link assertKnownOptions} does, for a constructor; the base class calls it with `new.target`. The options
 * of a subclass that lists no `optionNames` of its own are unknown here, so they are not checked.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the option and the right one
 */
export function assertKnownArgs(made: WithOptionNames, args: unknown): void {
  if (!Object.hasOwn(made, 'optionNames')) return;
  assertKnownOptions(made.name, args, made.optionNames as OptionNames<object>);
}

function listOf(names: string[]): string {
  if (names.length === 0) return 'no options';
  return names.length === 1 ? names[0] : `some of ${names.join(', ')}`;
}

function adviceFor(name: string, known: string[]): string {
  const snake = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`).toLowerCase();
  if (Object.hasOwn(ADVICE, snake)) return ADVICE[snake];
  const meant = Object.hasOwn(FOREIGN_NAMES, snake) ? FOREIGN_NAMES[snake] : undefined;
  if (meant !== undefined && known.includes(meant)) return `Use ${meant}.`;
  const flat = flattened(name);
  const sameLetters = known.find((candidate) => flattened(candidate) === flat);
  if (sameLetters !== undefined) return `Use ${sameLetters}.`;
  const elsewhere = meant ?? Object.keys(TAKEN_BY).find((candidate) => flattened(candidate) === flat);
  if (elsewhere !== undefined && Object.hasOwn(TAKEN_BY, elsewhere)) return `Use ${TAKEN_BY[elsewhere]}.`;
  return known.length === 0 ? 'Leave it out.' : `Did you mean ${nearestNames(name, known, 1)[0]}?`;
}

/** Makes `learning_rate` and `learningRate` equal. */
const flattened = (name: string): string => name.replaceAll('_', '').toLowerCase();
