import type {LoRADense, LoRADenseClass} from '../../layers/loraDense.ts';
import {
  type FieldValues,
  LORA_FIELDS,
  type LoRAAdapterArgs,
  type LoRAField,
  type LoRAFields,
  type LoRASettings,
  loraArgs,
  loraSettings,
} from '../../layers/loraFields.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {LayerRange} from '../replaceLayer.ts';
import type {TargetModules} from './targetModules.ts';
import type {TrainedBiases} from './trainedBiases.ts';

export interface LoRAOptions extends Partial<LoRAAdapterArgs> {
  /** Rank of the update. Default 8. */
  rank?: number;
  /** Layers to adapt. Default `'all-linear'`. */
  targetModules?: TargetModules;
  /** Linear layers to leave out of the targets: names or their ends, or a regular expression for the whole name. */
  excludeModules?: string | string[];
  /**
   * Modules that train whole, as a copy: every layer whose name ends with one of these, such as `embed_tokens`,
   * `lm_head` or `norm`, with the layers in it. They get no low-rank updates. Default none.
   */
  modulesToSave?: string[];
  /**
   * Whether an output head tied to the embedding also uses the embedding's copy; otherwise each has its own table, as in
   * PEFT. Default false.
   */
  ensureWeightTying?: boolean;
  /**
   * Tokens whose rows train, in the embedding and in a head that is tied to it: ids, or ids for each layer by the end of
   * its name, `embed_tokens` or `lm_head`. Default none.
   */
  trainableTokenIndices?: number[] | Record<string, number[]>;
  /** Decoder blocks to adapt, counted from 0. Default all. */
  layersToTransform?: number | number[];
  /** Name of the list of blocks. Default: the first part of a name that a number follows. */
  layersPattern?: string | string[];
  /** Ranks of single layers, by the end of a name or a regular expression for it. */
  rankPattern?: Record<string, number>;
  /** Alphas of single layers, by the end of a name or a regular expression for it. */
  alphaPattern?: Record<string, number>;
  /**
   * Weights of linear layers to adapt like `targetModules`, by their full names or their ends: `['q_proj.weight']`. PEFT's
   * `target_parameters`, which excludes dropout, DoRA and `loraBias`. With these, `targetModules` is empty by default.
   */
  targetParameters?: string[];
  /**
   * Biases of the base that train with the adapter and are saved in its file: `none`, those of the adapted layers
   * (`lora_only`) or `all`. They stay changed without the adapter, as in PEFT. Default `none`.
   */
  bias?: TrainedBiases;
  /**
   * Ranges [start, end) of blocks that run one after the other, counted from 0: `[[0, 4], [2, 5]]` turns five blocks
   * into 0, 1, 2, 3, 2, 3, 4. Repeated blocks share their base weights but have their own adapters, which cannot be
   * merged. The model keeps these blocks without the adapter. Default: the blocks do not change.
   */
  layerReplication?: LayerRange[];
  /** Name of the adapter. Default `default`. */
  adapterName?: string;
  /** Base model that `adapter_config.json` names. Default: the model's `nameOrPath`. */
  baseModelNameOrPath?: string;
  /**
   * A subclass of `LoRADense` for the linear layers that have no adapter yet. Default `LoRADense`, or the class that a
   * layer already has.
   */
  layerClass?: LoRADenseClass;
  /** Seed for the random values of A: the same seed gives the same adapter. Default 0. */
  seed?: number;
}

/** The options of `applyLoRA` for a layer class whose adapters have settings of their own. */
export type LoRAOptionsOf<Fields extends LoRAFields> = Omit<
  LoRAOptions,
  keyof LoRAAdapterArgs | 'layerClass'
> & {
  layerClass: LoRADenseClass<LoRADense, Fields>;
} & FieldValues<Fields>;

/** Returns the settings of layers that no pattern applies to, with all defaults filled in. */
export function commonSettings(options: LoRAOptions, fields: LoRAFields = LORA_FIELDS): LoRASettings {
  return loraSettings({rank: 8, ...loraArgs(options, fields)}, fields);
}

/** The options of `applyLoRA` that do not belong to each layer's adapter. */
const SELECTION = {
  targetModules: {kind: 'names', peftKey: 'target_modules'},
  excludeModules: {kind: 'names', peftKey: 'exclude_modules'},
  modulesToSave: {kind: 'list', peftKey: 'modules_to_save'},
  trainableTokenIndices: {kind: 'tokens', peftKey: 'trainable_token_indices'},
  ensureWeightTying: {kind: 'flag', peftKey: 'ensure_weight_tying', default: false},
  layersToTransform: {kind: 'layers', peftKey: 'layers_to_transform'},
  layersPattern: {kind: 'names', peftKey: 'layers_pattern'},
  rankPattern: {kind: 'numbers', peftKey: 'rank_pattern', default: {}},
  alphaPattern: {kind: 'numbers', peftKey: 'alpha_pattern', default: {}},
  layerReplication: {kind: 'ranges', peftKey: 'layer_replication'},
  targetParameters: {kind: 'names', peftKey: 'target_parameters'},
  bias: {
    kind: 'choice',
    peftKey: 'bias',
    default: 'none',
    limits: ['none, lora_only or all', (bias) => ['none', 'lora_only', 'all'].includes(bias as string)],
  },
  baseModelNameOrPath: {kind: 'text', peftKey: 'base_model_name_or_path'},
  adapterName: {kind: 'text'},
  layerClass: {kind: 'other'},
} as const satisfies {
  readonly [name in keyof Required<Omit<LoRAOptions, keyof LoRAAdapterArgs>>]: LoRAField;
};

/** Returns every option of `applyLoRA`: those of an adapter with such settings, and those that select layers. */
export function loraOptions(fields: LoRAFields = LORA_FIELDS): LoRAFields {
  return {...fields, ...SELECTION};
}

/** For kinds of options, what they expect and whether they accept a value. */
const KINDS: Readonly<Record<string, [expected: string, accepts: (value: unknown) => boolean]>> = {
  number: ['a number', (value) => typeof value === 'number'],
  names: [
    'names or a pattern',
    (value) => typeof value === 'string' || value instanceof RegExp || isTexts(value),
  ],
  list: ['a list of names', (value) => isTexts(value)],
};

const isTexts = (value: unknown) => Array.isArray(value) && value.every((item) => typeof item === 'string');

/** Refuses options of a wrong kind. @throws TfjsLoraError `INVALID_ARGUMENT` naming the option */
export function assertLoRAKinds(options: object, fields: LoRAFields): void {
  for (const [name, value] of Object.entries(options)) {
    const [expected, accepts] = KINDS[loraOptions(fields)[name]?.kind] ?? [];
    if (value == null || !accepts || accepts(value)) continue;
    throw new TfjsLoraError('INVALID_ARGUMENT', `LoRA ${name}: expected ${expected}, got ${show(value)}`);
  }
}

/** An option that a file in PEFT's format stores, with its key there. */
export interface PeftField extends LoRAField {
  name: string;
  key: string;
}

/** Returns the options that a file in PEFT's format stores. */
export function peftFields(fields: LoRAFields = LORA_FIELDS): PeftField[] {
  return Object.entries(loraOptions(fields)).flatMap(([name, field]) =>
    field.peftKey === undefined ? [] : [{name, key: field.peftKey, ...field}],
  );
}
