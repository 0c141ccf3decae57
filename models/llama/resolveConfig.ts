import {didYouMean, TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {
  type Json,
  LLAMA,
  type LlamaConfig,
  type LlamaConfigArgs,
  type LlamaFamily,
  parseConfig,
  withDefaults,
} from './config.ts';
import {presets} from './presets.ts';

export type LlamaPreset = keyof typeof presets;

/** A family whose configs have Llama's format, with the shapes of its published models. */
export interface PresetFamily extends LlamaFamily {
  readonly presets: Record<string, LlamaConfigArgs>;
}

/**
 * Makes a complete config from a preset's name, from our own keys, or from the contents of a `config.json`.
 *
 * @param hasOwnKeys whether the model's class has keys of its own, which do not change. Default false
 */
export function resolveConfig(
  source: string | LlamaConfigArgs | Json,
  family: PresetFamily = {...LLAMA, presets},
  hasOwnKeys = false,
): LlamaConfig {
  if (typeof source !== 'string' && (typeof source !== 'object' || source === null)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fromConfig: expected a preset's name or a config, got ${show(source)}. fromPretrained opens a folder.`,
    );
  }
  if (typeof source !== 'string') {
    return 'vocab_size' in source
      ? parseConfig(source, undefined, family)
      : withDefaults(source as LlamaConfigArgs, family, hasOwnKeys);
  }
  const names = Object.keys(family.presets);
  if (names.includes(source)) return withDefaults(family.presets[source], family);
  const name = family.architecture.replace('ForCausalLM', '');
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${name} preset "${source}": expected one of ${names.join(', ')}.${didYouMean(source, names)} ` +
      'fromPretrained opens a folder.',
  );
}

/** Refuses a path, with which other libraries construct a model. */
export function assertConfig(config: unknown, name: string): void {
  if (typeof config === 'object' && config !== null) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `new ${name}: expected a config, got ${show(config)}. Open a folder with await ${name}.fromPretrained(folder).`,
  );
}
