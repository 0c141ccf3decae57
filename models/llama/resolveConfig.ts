import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {
  type Json,
  type LlamaConfig,
  type LlamaConfigArgs,
  type LlamaFamily,
  parseConfig,
  withDefaults,
} from './config.ts';
import {presets} from './presets.ts';

export type LlamaPreset = keyof typeof presets;

/**
 * Makes a complete config from a preset's name, from our own keys, or from the contents of a `config.json`.
 *
 * @param hasOwnKeys whether the model's class has keys of its own, which stay as they are. Default false
 */
export function resolveConfig(
  source: LlamaPreset | LlamaConfigArgs | Json,
  family?: LlamaFamily,
  hasOwnKeys = false,
): LlamaConfig {
  if (typeof source !== 'string') {
    return 'vocab_size' in source
      ? parseConfig(source, undefined, family)
      : withDefaults(source as LlamaConfigArgs, hasOwnKeys);
  }
  const preset = Object.hasOwn(presets, source) ? presets[source] : undefined;
  if (preset) return withDefaults(preset);
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `Llama preset "${source}": expected one of ${Object.keys(presets).join(', ')}. ` +
      `Did you mean ${nearestNames(source, Object.keys(presets), 1)[0]}?`,
  );
}
