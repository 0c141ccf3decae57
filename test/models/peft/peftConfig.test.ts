import {readFileSync} from 'node:fs';
import {parsePeftConfig} from '../../../models/peft/peftConfig.ts';
import type {TfjsLoraError} from '../../../quant/errors.ts';
import {setWarningHandler} from '../../../quant/warn.ts';

type Json = Record<string, unknown>;

// Every field of PEFT's LoraConfig, by test/parity/loading/make_loading.py.
const {defaults, switchedOn}: {defaults: Json; switchedOn: Json} = JSON.parse(
  readFileSync('test/parity/loading/fixtures/loraConfig.json', 'utf8'),
);
const usual = {...defaults, target_modules: ['q_proj', 'v_proj'], task_type: 'CAUSAL_LM'};
const parse = (change: Json = {}) => parsePeftConfig({...usual, ...change}, 'adapter_config.json');

function refusal(change: Json): TfjsLoraError {
  try {
    parse(change);
  } catch (error) {
    return error as TfjsLoraError;
  }
  throw new Error(`expected ${JSON.stringify(change)} to be refused`);
}

/** Effect of a value on the options: `same` is none, `refused` an error that names the key. */
type Effect = 'same' | 'refused' | Json;

const FIELDS: Record<string, [value: unknown, effect: Effect][]> = {
  task_type: [['FEATURE_EXTRACTION', 'same']],
  peft_type: [['ADALORA', 'refused']],
  auto_mapping: [[{base_model_class: 'LlamaForCausalLM'}, 'same']],
  peft_version: [['0.10.0', 'same']],
  base_model_name_or_path: [['some/model', {baseModelNameOrPath: 'some/model'}]],
  revision: [['main', 'same']],
  inference_mode: [[true, 'same']],
  r: [
    [3, {rank: 3}],
    ['3', 'refused'],
  ],
  target_modules: [
    ['.*_proj', {targetModules: '.*_proj'}],
    [null, 'refused'],
    [[1], 'refused'],
  ],
  exclude_modules: [
    [['q_proj'], {excludeModules: ['q_proj']}],
    ['.*q_proj', {excludeModules: '.*q_proj'}],
    [7, 'refused'],
  ],
  lora_alpha: [
    [5, {alpha: 5}],
    [true, 'refused'],
  ],
  lora_dropout: [[0.5, {dropout: 0.5}]],
  fan_in_fan_out: [[true, 'same']],
  bias: [
    ['all', {bias: 'all'}],
    ['lora_only', {bias: 'lora_only'}],
    ['some', 'refused'],
  ],
  use_rslora: [
    [true, {useRsLoRA: true}],
    ['yes', 'refused'],
  ],
  modules_to_save: [
    [['lm_head'], {modulesToSave: ['lm_head']}],
    [[], {modulesToSave: []}],
    ['lm_head', 'refused'],
  ],
  init_lora_weights: [
    [false, 'same'],
    ['gaussian', {init: 'gaussian'}],
    ['Gaussian', {init: 'gaussian'}],
    ['eva', 'same'],
    ['orthogonal', 'same'],
    ['mica', {freezeB: true}],
    ...['pissa', 'pissa_niter_4', 'PiSSA', 'olora', 'OLoRA', 'loftq', 'corda', 'lora_ga'].map(
      (init): [string, Effect] => [init, 'same'],
    ),
    ...['nonsense', '', 1, []].map((value): [unknown, Effect] => [value, 'refused']),
  ],
  layers_to_transform: [
    [1, {layersToTransform: 1}],
    [[0, 1], {layersToTransform: [0, 1]}],
    ['1', 'refused'],
    [0.5, 'refused'],
  ],
  layers_pattern: [['layers', 'refused']], // alone: PEFT refuses it
  rank_pattern: [
    [{q_proj: 4}, {rankPattern: {q_proj: 4}}],
    [{q_proj: '4'}, 'refused'],
    [['q_proj'], 'refused'],
  ],
  alpha_pattern: [[{q_proj: 4}, {alphaPattern: {q_proj: 4}}]],
  megatron_config: [[{hidden_size: 8}, 'refused']],
  megatron_core: [['my.core', 'same']],
  trainable_token_indices: [
    [[1, 2], {trainableTokenIndices: [1, 2]}],
    [{lm_head: [1]}, {trainableTokenIndices: {lm_head: [1]}}],
    [['a'], 'refused'],
    [{lm_head: 1}, 'refused'],
  ],
  loftq_config: [[switchedOn.loftq_config, 'same']],
  eva_config: [[switchedOn.eva_config, 'same']],
  corda_config: [[switchedOn.corda_config, 'same']],
  lora_ga_config: [[switchedOn.lora_ga_config, 'same']],
  use_dora: [
    [true, {useDoRA: true}],
    [1, 'refused'],
  ],
  velora_config: [
    [switchedOn.velora_config, 'refused'],
    [{}, 'refused'],
  ],
  alora_invocation_tokens: [[[1, 2], 'refused']],
  use_qalora: [[true, 'refused']],
  qalora_group_size: [[8, 'same']],
  monteclora_config: [[switchedOn.monteclora_config, 'refused']],
  layer_replication: [
    [[[0, 1]], {layerReplication: [[0, 1]]}],
    [[[0]], 'refused'],
    [[], {layerReplication: []}],
  ],
  runtime_config: [[{ephemeral_gpu_offload: true}, 'same']],
  lora_bias: [
    [true, {loraBias: true}],
    [1, 'refused'],
  ],
  target_parameters: [
    [['q_proj.weight'], {targetParameters: ['q_proj.weight']}],
    [[], {targetParameters: []}],
    [1, 'refused'],
  ],
  use_bdlora: [
    [switchedOn.use_bdlora, 'refused'],
    [false, 'same'],
  ],
  arrow_config: [[switchedOn.arrow_config, 'refused']],
  kasa_config: [[switchedOn.kasa_config, 'refused']],
  ensure_weight_tying: [[true, {ensureWeightTying: true}]],
};

test('covers every field of LoraConfig, and accepts all defaults without a warning', () => {
  expect(Object.keys(FIELDS).sort()).toEqual(Object.keys(defaults).sort());
  const warnings: string[] = [];
  const restore = setWarningHandler((message) => warnings.push(message));
  expect(parse()).toMatchObject({
    rank: 8,
    alpha: 8,
    dropout: 0,
    targetModules: ['q_proj', 'v_proj'],
    useDoRA: false,
    useRsLoRA: false,
    init: 'kaiming',
    freezeB: false,
  });
  expect(parsePeftConfig({peft_type: 'LORA', target_modules: ['q_proj', 'v_proj']}, 'it')).toEqual(parse());
  expect(warnings).toEqual([]);
  setWarningHandler(restore);
});

const rows = Object.entries(FIELDS).flatMap(([field, values]) =>
  values.map(([value, effect]) => [field, value, effect]),
);
test.each(rows as [string, unknown, Effect][])('%s: %j', (field, value, effect) => {
  if (effect === 'refused') {
    const {code, message} = refusal({[field]: value});
    expect(['UNSUPPORTED', 'INVALID_CONFIG']).toContain(code);
    expect(message).toMatch(new RegExp(`^adapter_config\\.json ${field}: expected .+, got `));
  } else expect(parse({[field]: value})).toEqual({...parse(), ...(effect === 'same' ? {} : effect)});
});

test('refuses initializations that PEFT does not have, and settings that it refuses', () => {
  expect(refusal({init_lora_weights: 'nonsense'}).code).toBe('INVALID_CONFIG');
  for (const init of [{toString: 1}, ['pissa'], 1])
    expect(refusal({init_lora_weights: init}).code).toBe('INVALID_CONFIG');
  const replicated = refusal({init_lora_weights: 'pissa', layer_replication: [[0, 1]]});
  expect(replicated.message).toContain('layer_replication: expected none with init_lora_weights pissa');
  for (const loftq_config of [{loftq_bits: 3}, {loftq_iter: 0}, {loftq_iter: 'x'}])
    expect(refusal({init_lora_weights: 'loftq', loftq_config}).message).toContain(
      'loftq_config: expected loftq_bits 4 or 8',
    );
});

test('accepts layers_pattern only with layers_to_transform', () => {
  expect(parse({layers_pattern: ['layers', 'h'], layers_to_transform: [1]})).toMatchObject({
    layersPattern: ['layers', 'h'],
    layersToTransform: [1],
  });
});

test('names unknown keys once', () => {
  const warnings: string[] = [];
  const restore = setWarningHandler((message) => warnings.push(message));
  parse({of_tomorrow: 1, too: {a: 1}, off: false, none: null});
  setWarningHandler(restore);
  expect(warnings).toEqual(['adapter_config.json: ignored unknown keys of_tomorrow, too']);
});
