import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import type {LoRAOptions} from './adapterSet.ts';

type Json = Record<string, unknown>;

/** Keys of `adapter_config.json` that PEFT writes and that change nothing for a Llama's linear layers. */
const INERT = new Set([
  'auto_mapping',
  'revision',
  'inference_mode',
  'task_type',
  'peft_type',
  'peft_version',
  'fan_in_fan_out',
  'qalora_group_size',
  'megatron_config',
  'megatron_core',
  'loftq_config',
  'runtime_config',
  'eva_config',
  'corda_config',
  'arrow_config',
  'ensure_weight_tying',
  'layers_pattern',
]);

/** Keys that would change the numbers, and the values that mean they are off. */
const MUST_BE_OFF: Record<string, unknown[]> = {
  bias: ['none'],
  lora_bias: [false],
  modules_to_save: [null, []],
  layer_replication: [null],
  exclude_modules: [null, []],
  trainable_token_indices: [null],
  target_parameters: [null, []],
  use_qalora: [false],
  use_bdlora: [null, false],
  alora_invocation_tokens: [null],
};

const READ = new Set([
  'base_model_name_or_path',
  'r',
  'lora_alpha',
  'lora_dropout',
  'target_modules',
  'layers_to_transform',
  'rank_pattern',
  'alpha_pattern',
  'use_rslora',
  'use_dora',
  'init_lora_weights',
]);

/**
 * Reads a PEFT `adapter_config.json`. Keys nobody knows are ignored with one warning that names them.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` for another kind of adapter or a feature not built here, `INVALID_CONFIG` for a
 *   missing or impossible key
 */
export function parsePeftConfig(json: Json, where: string): LoRAOptions {
  if (json.peft_type !== 'LORA') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} peft_type: expected "LORA", got ${JSON.stringify(json.peft_type)}`,
    );
  }
  for (const [key, off] of Object.entries(MUST_BE_OFF)) {
    const value = json[key];
    if (value === undefined || off.some((allowed) => JSON.stringify(allowed) === JSON.stringify(value)))
      continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} ${key}: expected ${JSON.stringify(off[0])}, got ${JSON.stringify(value)}`,
    );
  }
  const known = (key: string) => READ.has(key) || INERT.has(key) || key in MUST_BE_OFF;
  const unknown = Object.keys(json).filter((key) => !known(key) && json[key] != null && json[key] !== false);
  if (unknown.length > 0) warn(`${where}: ignored unknown keys ${unknown.join(', ')}`);

  const targetModules = json.target_modules;
  const isTarget =
    typeof targetModules === 'string' ||
    (Array.isArray(targetModules) && targetModules.every((name) => typeof name === 'string'));
  if (!isTarget) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} target_modules: expected a string or a list of names, got ${JSON.stringify(targetModules)}`,
    );
  }
  const number = (key: string, fallback: number): number => {
    const value = json[key] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${key}: expected a number, got ${JSON.stringify(value)}`,
    );
  };
  return {
    rank: number('r', 8),
    alpha: number('lora_alpha', 8),
    dropout: number('lora_dropout', 0),
    targetModules: targetModules as string | string[],
    layersToTransform: (json.layers_to_transform as number | number[]) ?? undefined,
    rankPattern: (json.rank_pattern as Record<string, number>) ?? {},
    alphaPattern: (json.alpha_pattern as Record<string, number>) ?? {},
    useRsLoRA: (json.use_rslora as boolean) ?? false,
    useDoRA: (json.use_dora as boolean) ?? false,
    init: json.init_lora_weights === 'gaussian' ? 'gaussian' : 'kaiming',
    baseModelNameOrPath: (json.base_model_name_or_path as string) ?? undefined,
  };
}

/**
 * The contents of an `adapter_config.json`, keys sorted as PEFT sorts them.
 *
 * @param layerNames the adapted layers: `all-linear` is written as the list of their last names, as PEFT does
 */
export function formatPeftConfig(options: LoRAOptions, layerNames: string[], baseModel: string): Json {
  const {targetModules = 'all-linear', rank = 8, init = 'kaiming'} = options;
  const lastNames = new Set(layerNames.map((name) => name.slice(name.lastIndexOf('.') + 1)));
  // A pattern goes as it is only where PEFT reads it alike: without flags, and not together with layers.
  const isPattern = targetModules instanceof RegExp || typeof targetModules === 'string';
  const {source, flags} =
    targetModules instanceof RegExp ? targetModules : {source: targetModules as string, flags: ''};
  const listed = isPattern && (flags !== '' || options.layersToTransform != null);
  const targets =
    targetModules === 'all-linear'
      ? [...lastNames].sort()
      : listed
        ? layerNames
        : isPattern
          ? source
          : targetModules;
  return {
    alpha_pattern: options.alphaPattern ?? {},
    base_model_name_or_path: options.baseModelNameOrPath ?? baseModel,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: init === 'gaussian' ? 'gaussian' : true,
    layers_pattern: null,
    layers_to_transform: targets === layerNames ? null : (options.layersToTransform ?? null),
    lora_alpha: options.alpha ?? 2 * rank,
    lora_dropout: options.dropout ?? 0,
    modules_to_save: null,
    peft_type: 'LORA',
    r: rank,
    rank_pattern: options.rankPattern ?? {},
    target_modules: targets,
    task_type: 'CAUSAL_LM',
    use_dora: options.useDoRA ?? false,
    use_rslora: options.useRsLoRA ?? false,
  };
}
