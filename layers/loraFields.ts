import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';

/**
 * How LoRA's A is initialized: by default as in PEFT (Kaiming uniform, ±1/√inputDim), otherwise as in the paper
 * (normal, with a standard deviation of 1/rank).
 */
export type LoRAInit = 'kaiming' | 'gaussian';

export interface LoRAAdapterArgs {
  /** Rank of the update. */
  rank: number;
  /** Numerator of the scale. Default `2 · rank`, as in LLaMA-Factory. A PEFT file without `lora_alpha` means 8. */
  alpha?: number;
  /** Probability of dropping an input of the low-rank path in training. Default 0. */
  dropout?: number;
  /** Whether to scale by `alpha / √rank` instead of `alpha / rank` (Kalajdzievski 2023). Default false. */
  useRsLoRA?: boolean;
  /**
   * Whether to learn the magnitude of each weight row apart from its direction (DoRA, Liu et al. 2024). Default false.
   */
  useDoRA?: boolean;
  /**
   * Whether to learn a bias of B, zeros at first, that is scaled like the update. Not with DoRA or `init: 'gaussian'`, as
   * in PEFT. Merging needs a base with a bias. Default false.
   */
  loraBias?: boolean;
  /** Distribution of A's initial values. Default `kaiming`. B always starts at zero. */
  init?: LoRAInit;
  /** Whether to train only A, as MiCA does. Default false. */
  freezeB?: boolean;
  /** Seed for the random values of A. Default: unseeded. */
  seed?: number;
}

/** An adapter's settings with defaults filled in, without the seed, which only drawing A needs. */
export type LoRASettings = Required<Omit<LoRAAdapterArgs, 'seed'>>;

/** A setting of an adapter. All code that reads, writes, checks or lists settings uses these. */
export interface LoRAField {
  /** The type of its values. */
  kind:
    | 'number'
    | 'flag'
    | 'text'
    | 'choice'
    | 'names'
    | 'list'
    | 'tokens'
    | 'layers'
    | 'ranges'
    | 'numbers'
    | 'other';
  /** The default value; undefined if there is none or it follows from other settings. */
  default?: unknown;
  /** Returns the default value that follows from other settings. */
  derive?(settings: Record<string, unknown>): unknown;
  /** Its key in PEFT's `adapter_config.json`; undefined if PEFT has no such setting. */
  peftKey?: string;
  /** The value if the file has none, where PEFT's default differs from ours. */
  peftDefault?: unknown;
  /** The values of its kind that it accepts, in words and as a check, and advice for other values. Default: all. */
  limits?: [expected: string, accepts: (value: unknown) => boolean, advice?: string];
}

/** The settings of an adapter class, by their names here. */
export type LoRAFields = Readonly<Record<string, LoRAField>>;

/** The settings that a table declares, as options; LoRA's for a table that the compiler does not know. */
export type FieldValues<Fields extends LoRAFields> = string extends keyof Fields
  ? Partial<LoRAAdapterArgs>
  : {-readonly [name in keyof Fields]?: FieldKinds[Fields[name]['kind']]};

interface FieldKinds {
  number: number;
  flag: boolean;
  text: string;
  choice: string;
  names: string | string[];
  list: string[];
  tokens: number[] | Record<string, number[]>;
  layers: number | number[];
  ranges: [number, number][];
  numbers: Record<string, number>;
  other: unknown;
}

/** All settings of LoRA in one layer. */
export const LORA_FIELDS = {
  rank: {kind: 'number', peftKey: 'r', peftDefault: 8}, // its limits are those of the weight
  alpha: {
    kind: 'number',
    peftKey: 'lora_alpha',
    peftDefault: 8,
    derive: ({rank}: Record<string, unknown>) => 2 * (rank as number),
    limits: ['a number', Number.isFinite],
  },
  dropout: {
    kind: 'number',
    peftKey: 'lora_dropout',
    default: 0,
    limits: ['0 ≤ p < 1', (p) => typeof p === 'number' && p >= 0 && p < 1],
  },
  useRsLoRA: {kind: 'flag', peftKey: 'use_rslora', default: false},
  useDoRA: {kind: 'flag', peftKey: 'use_dora', default: false},
  loraBias: {kind: 'flag', peftKey: 'lora_bias', default: false},
  init: {
    kind: 'choice',
    default: 'kaiming',
    limits: [
      'kaiming or gaussian',
      (init) => init === 'kaiming' || init === 'gaussian',
      "A model's initializeLoRA has others.",
    ],
  },
  freezeB: {kind: 'flag', default: false},
  seed: {kind: 'number'},
} as const satisfies {readonly [name in keyof Required<LoRAAdapterArgs>]: LoRAField};

/** Returns the adapter's settings among other options, without those that are undefined. */
export function loraArgs<T extends object>(options: T, fields: LoRAFields = LORA_FIELDS): Partial<T> {
  const given = Object.entries(options).filter(
    ([name, value]) => value !== undefined && Object.hasOwn(fields, name),
  );
  return Object.fromEntries(given) as Partial<T>;
}

/** Returns an adapter's settings with defaults filled in. */
export function loraSettings(args: LoRAAdapterArgs, fields: LoRAFields = LORA_FIELDS): LoRASettings {
  const {seed: _, ...given}: Record<string, unknown> = loraArgs(args, fields);
  const defaults = Object.entries(fields).flatMap(([name, field]) =>
    field.derive ? [[name, field.derive(given)]] : 'default' in field ? [[name, field.default]] : [],
  );
  return {...Object.fromEntries(defaults), ...given} as unknown as LoRASettings;
}

/**
 * Returns the settings in a config that Keras's JSON has respelled: it writes `useRsLoRA` in snake case and reads
 * `useRsLoRa`.
 */
export function respelledByKeras(
  config: Record<string, unknown>,
  fields: LoRAFields = LORA_FIELDS,
): Record<string, unknown> {
  const names = Object.keys(fields);
  const spelt = (key: string) => names.find((name) => name.toLowerCase() === key.toLowerCase()) ?? key;
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [spelt(key), value]));
}

/**
 * Checks an adapter's settings against its layer's weight `[units, inputDim]`.
 *
 * @param where the layer's name
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function assertLoRAArgs(
  args: LoRAAdapterArgs,
  where: string,
  [units, inputDim]: number[],
  fields: LoRAFields = LORA_FIELDS,
): void {
  const most = Math.min(units, inputDim);
  const wrong = (what: string, expected: string, got: unknown) =>
    new TfjsLoraError('INVALID_ARGUMENT', `LoRA ${what} for ${where}: expected ${expected}, got ${got}`);
  const {rank} = args;
  const isTooLarge = Number.isInteger(rank) && rank > most;
  if (!(Number.isInteger(rank) && rank > 0 && rank <= most))
    throw wrong(
      'rank',
      `an integer from 1 to ${most} (its weight is [${units}, ${inputDim}])`,
      `${show(rank)}.${isTooLarge ? ' Lower it, here by rankPattern or for all, or leave the layer out by excludeModules.' : ''}`,
    );
  for (const [name, {kind, limits}] of Object.entries(fields)) {
    const value = (args as unknown as Record<string, unknown>)[name];
    if (value === undefined) continue;
    const [expected, accepts, advice] = limits ?? [];
    if (accepts && !accepts(value)) throw wrong(name, expected!, advice ? `${value}. ${advice}` : value);
    if (kind === 'flag' && typeof value !== 'boolean') throw wrong(name, 'true or false', show(value));
  }
  const {loraBias, useDoRA, init = 'kaiming'} = args;
  if (loraBias && useDoRA) throw wrong('loraBias', 'false with useDoRA', true);
  if (loraBias && init !== 'kaiming') throw wrong('loraBias', `false with init ${init}`, true);
}
