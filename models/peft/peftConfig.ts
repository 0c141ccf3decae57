import {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import type {LoRAField} from '../../layers/loraFields.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {warn} from '../../quant/warn.ts';
import {layerClassOf} from './adapterRegistry.ts';
import {baseChangeOf} from './initLoraWeights.ts';
import {commonSettings, type LoRAOptions, type PeftField, peftFields} from './loraOptions.ts';

type Json = Record<string, unknown>;

/** Keys of `adapter_config.json` that PEFT writes but that have no effect on a Llama's linear layers. */
const INERT = new Set([
  'auto_mapping',
  'revision',
  'inference_mode',
  'task_type',
  'peft_type',
  'peft_version',
  'fan_in_fan_out', // PEFT resets it for `nn.Linear`
  'qalora_group_size',
  'megatron_core',
  'runtime_config', // PEFT drops it from a file
  'loftq_config', // these four configure an `init_lora_weights`, which alone decides
  'eva_config',
  'corda_config',
  'lora_ga_config',
]);

/** Keys that would change the numbers, and the values that turn them off. */
const MUST_BE_OFF: Record<string, unknown[]> = {
  use_qalora: [false],
  use_bdlora: [null, false],
  alora_invocation_tokens: [null],
  arrow_config: [null],
  kasa_config: [null],
  velora_config: [null],
  monteclora_config: [null],
  megatron_config: [null, {}],
};

/** Whether adapters are PEFT's LoRA, whose `init_lora_weights` stands for two of our settings. */
const isLoRA = ({adapterClass}: LoRADenseClass) => adapterClass.peftType === LoRAAdapter.peftType;

/**
 * Reads a PEFT `adapter_config.json`. Unknown keys are ignored, with one warning that names them.
 *
 * @param where the file, for messages
 * @param layerClass layers for such adapters. Default: the class that is registered for the file's `peft_type`
 * @throws TfjsLoraError `UNSUPPORTED` for another kind of adapter or a feature that is not implemented,
 *   `INVALID_CONFIG` for a missing or impossible key
 */
export function parsePeftConfig(
  json: Json,
  where: string,
  layerClass: LoRADenseClass = layerClassOf(json.peft_type, where),
): LoRAOptions {
  const {fields, peftType} = layerClass.adapterClass;
  if (json.peft_type !== peftType) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} peft_type: expected ${show(peftType)} for layers of ${layerClass.name}, got ${show(json.peft_type)}`,
    );
  }
  for (const [key, off] of Object.entries(MUST_BE_OFF)) {
    const value = json[key];
    if (value === undefined || off.some((allowed) => JSON.stringify(allowed) === JSON.stringify(value)))
      continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} ${key}: expected ${JSON.stringify(off[0])}, got ${show(value)}. ` +
        'The adapter does more than add low-rank updates, which is not implemented here: merge it in PEFT ' +
        '(merge_and_unload) and load the merged model.',
    );
  }
  const keys = peftFields(fields);
  const read = new Set([...keys.map(({key}) => key), ...(isLoRA(layerClass) ? ['init_lora_weights'] : [])]);
  const changed = isLoRA(layerClass) ? baseChangeOf(json, where) : undefined; // loading changes the base, if it must
  if (changed && Array.isArray(json.layer_replication) && json.layer_replication.length > 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} layer_replication: expected none with init_lora_weights ${changed.method}, which changes the base, got ` +
        `${show(json.layer_replication)}. Replicated layers share their weights.`,
    );
  }
  const known = (key: string) => read.has(key) || INERT.has(key) || Object.hasOwn(MUST_BE_OFF, key);
  const unknown = Object.keys(json).filter((key) => !known(key) && json[key] != null && json[key] !== false);
  if (unknown.length > 0) warn(`${where}: ignored unknown keys ${unknown.join(', ')}`);

  const options: LoRAOptions = Object.fromEntries(
    keys.map((field) => [field.name, readField(field, json[field.key], where)]),
  );
  if (options.targetModules === undefined) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} target_modules: expected a string or a list of names, got ${show(json.target_modules)}. ` +
        'PEFT writes the names it chose; for a Llama they are ["q_proj", "v_proj"].',
    );
  }
  if (options.layersPattern?.length && options.layersToTransform === undefined) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} layers_pattern: expected layers_to_transform beside it, got none. PEFT refuses this too.`,
    );
  }
  if (!isLoRA(layerClass)) return options;
  return {
    ...options,
    init: isNamed(json.init_lora_weights, 'gaussian') ? 'gaussian' : 'kaiming',
    freezeB: isNamed(json.init_lora_weights, 'mica'),
  };
}

const isNamed = (init: unknown, name: string) => typeof init === 'string' && init.toLowerCase() === name;

const isNumber = Number.isFinite;
const isString = (value: unknown) => typeof value === 'string';
const listOf = (isRight: (value: unknown) => boolean) => (value: unknown) =>
  Array.isArray(value) ? value.every(isRight) : isRight(value);
const isPair = (value: unknown) =>
  Array.isArray(value) && value.length === 2 && value.every(Number.isInteger);
const isObjectOf = (isRight: (value: unknown) => boolean) => (value: unknown) =>
  typeof value === 'object' && !Array.isArray(value) && Object.values(value as Json).every(isRight);

const isIds = (value: unknown) => Array.isArray(value) && value.every(Number.isInteger);
const isTokens = (value: unknown) => isIds(value) || (!Array.isArray(value) && isObjectOf(isIds)(value));

/** Checks of the values that a file may have for each kind of setting. */
const KINDS: Partial<Record<LoRAField['kind'], [expected: string, isRight: (value: unknown) => boolean]>> = {
  number: ['a number', isNumber],
  flag: ['true or false', (value) => typeof value === 'boolean'],
  text: ['a string', isString],
  choice: ['a string', isString],
  names: ['a string or a list of names', listOf(isString)],
  list: ['a list of names', (value) => Array.isArray(value) && value.every(isString)],
  tokens: ['a list of token ids, or one for each layer', isTokens],
  layers: ['the number of a layer, or a list of them', listOf(Number.isInteger)],
  ranges: [
    'pairs of the first layer and the one after the last',
    (value) => Array.isArray(value) && value.every(isPair),
  ],
  numbers: ['a number for each name', isObjectOf(isNumber)],
};

/** Reads and checks a setting's value in a file. Null means absent, as in PEFT's defaults. */
function readField({kind, key, ...field}: PeftField, value: unknown, where: string): unknown {
  if (value == null) return field.peftDefault ?? field.default;
  const [ofKind, isRight] = KINDS[kind]!;
  const [expected, accepts] = (kind === 'choice' && field.limits) || [ofKind, () => true];
  if (isRight(value) && accepts(value)) return value;
  throw new TfjsLoraError('INVALID_CONFIG', `${where} ${key}: expected ${expected}, got ${show(value)}`);
}

/**
 * Returns the contents of an `adapter_config.json`, with keys sorted as PEFT sorts them.
 *
 * @param layerNames the adapted layers; `all-linear` is written as the list of their names' last parts, as in PEFT
 */
export function formatPeftConfig(
  options: LoRAOptions,
  layerNames: string[],
  baseModel: string,
  taskType: string | null = 'CAUSAL_LM',
): Json {
  const {targetModules = 'all-linear', layerClass = LoRADense} = options;
  const {fields, peftType} = layerClass.adapterClass;
  const settings = commonSettings(options, fields);
  const values: Record<string, unknown> = {...settings, ...options};
  const lastNames = new Set(layerNames.map((name) => name.slice(name.lastIndexOf('.') + 1)));
  // A pattern is written unchanged only if PEFT reads it the same way: without flags, and not together with layers.
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
  const json: Json = {
    ...Object.fromEntries(
      peftFields(fields).map(({name, key, default: byDefault}) => [key, values[name] ?? byDefault ?? null]),
    ),
    base_model_name_or_path: options.baseModelNameOrPath ?? baseModel,
    fan_in_fan_out: false,
    inference_mode: true,
    ...(isLoRA(layerClass) && {init_lora_weights: settings.init === 'gaussian' ? 'gaussian' : true}),
    peft_type: peftType,
    target_modules: targets,
    task_type: taskType,
    ...(targets === layerNames && {exclude_modules: null, layers_pattern: null, layers_to_transform: null}),
  };
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}
