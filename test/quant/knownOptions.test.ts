import {assertKnownArgs, assertKnownOptions} from '../../quant/index.ts';

const LORA = {rank: true, alpha: true, dropout: true, targetModules: true} as const;
const FIT = {epochs: true, batchSize: true, gradientAccumulationSteps: true} as const;

const messageOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('expected an error, got none');
};

describe('assertKnownOptions', () => {
  test.each([
    ['applyLoRA', LORA, 'r', 'Use rank.'],
    ['applyLoRA', LORA, 'lora_alpha', 'Use alpha.'],
    ['applyLoRA', LORA, 'target_modules', 'Use targetModules.'],
    ['applyLoRA', LORA, 'loraDropout', 'Use dropout.'],
    ['applyLoRA', LORA, 'droput', 'Did you mean dropout?'],
    ['applyLoRA', LORA, 'lr', 'Use compile({optimizer: new AdamW({learningRate: 1e-4})}).'],
    ['applyLoRA', LORA, 'load_in_4bit', "Use fromPretrained(folder, {quantization: {type: 'nf4'}})."],
    ['fitDataset', FIT, 'per_device_train_batch_size', 'Use batchSize.'],
    ['fitDataset', FIT, 'batch_size', 'Use batchSize.'],
    ['fitDataset', FIT, 'num_train_epochs', 'Use epochs.'],
    ['fitDataset', FIT, 'gradient_accumulation_steps', 'Use gradientAccumulationSteps.'],
    ['fitDataset', FIT, 'max_grad_norm', 'Use compile({maxGradNorm: 1}).'],
    ['fitDataset', FIT, 'learningRate', 'Use compile({optimizer: new AdamW({learningRate: 1e-4})}).'],
    ['fitDataset', FIT, 'validation_split', 'Use splitValidation(examples, 0.1),'],
    ['fitDataset', FIT, 'rank', 'Use applyLoRA({rank: 8}).'],
    ['fitDataset', FIT, 'constructor', 'Leave it out.'],
    ['fitDataset', FIT, '__proto__x', 'Leave it out.'],
    ['fitDataset', FIT, 'loadIn4bit', "Use fromPretrained(folder, {quantization: {type: 'nf4'}})."],
    ['quantize', {type: true}, 'bits', "Use {type: 'nf4'} for 4 bits"],
    ['loadDataset', {dataset: true, hub: true}, 'path', 'Use loadDataset({dataset: name, datasetDir:'],
    ['chat', {seed: true, topP: true}, 'stream', 'Use for await (const piece of model.stream(prompt))'],
    [
      'chat',
      {bosTokenId: true, topP: true},
      'onToken',
      'Use for await (const piece of model.stream(prompt))',
    ],
    [
      'predictDataset',
      {temperature: true, topP: true},
      'generation',
      'Use {maxNewTokens: 128} and its other',
    ],
    ['fitDataset', {generation: true, epochs: true}, 'generationConfig', 'Use generation.'],
  ])('%s: %s says what to do about %s', (call, known, name, advice) => {
    const message = messageOf(() => assertKnownOptions(call, {[name]: 1}, known));
    expect(message).toContain(
      `${call} ${name}: expected ${Object.keys(known).length > 1 ? 'some of ' : ''}${Object.keys(known).join(', ')}, got`,
    );
    expect(message).toContain(advice);
    expect(messageOf(() => assertKnownOptions(call, {...{[name]: 0}}, known))).toContain(advice);
  });

  test.each([
    [
      'PEFT',
      'r lora_alpha lora_dropout target_modules exclude_modules use_rslora use_dora modules_to_save rank_pattern ' +
        'alpha_pattern layers_to_transform init_lora_weights fan_in_fan_out bias task_type inference_mode is_trainable',
    ],
    [
      'transformers',
      'learning_rate weight_decay adam_beta1 adam_epsilon optim lr_scheduler_type warmup_steps warmup_ratio max_grad_norm ' +
        'per_device_train_batch_size per_device_eval_batch_size num_train_epochs gradient_accumulation_steps max_steps ' +
        'logging_steps save_steps save_total_limit eval_strategy eval_steps output_dir fp16 bf16 report_to seed data_seed ' +
        'gradient_checkpointing group_by_length load_best_model_at_end resume_from_checkpoint dataloader_num_workers ' +
        'load_in_4bit load_in_8bit bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant llm_int8_threshold ' +
        'quantization_config torch_dtype dtype device_map trust_remote_code attn_implementation low_cpu_mem_usage revision ' +
        'token cache_dir local_files_only max_new_tokens min_new_tokens do_sample temperature top_k top_p min_p num_beams ' +
        'repetition_penalty eos_token_id pad_token_id stop_strings streamer skip_special_tokens add_generation_prompt',
    ],
    [
      'TRL, LLaMA-Factory, Unsloth',
      'train_dataset eval_dataset packing max_length max_seq_length dataset_text_field formatting_func data_collator ' +
        'completion_only_loss assistant_only_loss processing_class compute_metrics cutoff_len lora_rank lora_target ' +
        'quantization_bit train_on_prompt mask_history template preprocessing_num_workers random_state full_finetuning',
    ],
    [
      'Keras',
      'lr beta_1 clipnorm clipvalue momentum decay batch_size epochs nb_epoch validation_split validation_data loss metrics ' +
        'validation_steps steps_per_epoch initial_epoch verbose shuffle callbacks sample_weight class_weight optimizer ' +
        'kernel_initializer kernel_regularizer run_eagerly loss_weights',
    ],
  ])('names of %s are pointed to ours, or are not needed', (_, names) => {
    for (const name of names.split(' ')) {
      const message = messageOf(() => assertKnownOptions('call', {[name]: 1}, {concern: true}));
      expect(message).toMatch(/does not have\. \S.*\.$/);
      expect(message).not.toContain('Did you mean');
    }
  });

  test('accepts known options, undefined ones, and none at all', () => {
    assertKnownOptions('fitDataset', {epochs: 1, nonsense: undefined}, FIT);
    assertKnownOptions('fitDataset', {}, FIT);
    assertKnownOptions('fitDataset', undefined, FIT);
  });

  test('accepts true and false as texts where any text is meant', () =>
    assertKnownOptions(
      'generate',
      {stopStrings: 'true', system: 'false'},
      {stopStrings: true, system: true},
    ));

  test.each([
    [null, 'null'],
    [8, 'a number'],
    ['nf4', 'a string'],
    [[8], 'an array'],
  ])('refuses %j as options', (options, got) => {
    expect(() => assertKnownOptions('applyLoRA', options, LORA)).toThrow(
      `applyLoRA options: expected an object such as {rank: …}, got ${got}`,
    );
  });

  test('refuses no options where they are required', () =>
    expect(() => assertKnownOptions('estimateMemory', undefined, {batchSize: true}, 'required')).toThrow(
      'estimateMemory options: expected an object such as {batchSize: …}, got none',
    ));

  test('shortens a very long name', () => {
    const name = 'x'.repeat(1e6);
    expect(messageOf(() => assertKnownOptions('fitDataset', {[name]: 1}, FIT)).length).toBeLessThan(400);
  });
});

describe('assertKnownArgs', () => {
  class Base {
    static readonly optionNames = {rate: true} as const;
    constructor(args: object) {
      assertKnownArgs(new.target, args);
    }
  }
  class Free extends Base {}
  class Listed extends Base {
    static override readonly optionNames = {...Base.optionNames, more: true} as const;
  }

  test('checks a class by its own list, and does not check a subclass without one', () => {
    expect(() => new Base({rat: 1})).toThrow('Base rat: expected rate, got');
    expect(() => new Listed({rate: 1, more: 2})).not.toThrow();
    expect(() => new Listed({other: 2})).toThrow('Listed other');
    expect(() => new Free({other: 2})).not.toThrow();
  });
});
