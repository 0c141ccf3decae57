import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {PythonPattern} from '../patterns/pythonPattern.ts';
import type {LoRAOptions} from './loraOptions.ts';

/**
 * Refuses an adapter with a pattern that repeats a repetition, such as `(a+)+!`. PEFT itself would hang on it, so no
 * adapter from PEFT has one.
 *
 * @param where the adapter's config, for messages
 * @throws TfjsLoraError `INVALID_CONFIG` naming the key and the pattern
 */
export function assertPatternsEnd(options: LoRAOptions, where: string): void {
  for (const [key, pattern] of patternsOf(options)) {
    if (!new PythonPattern(pattern, `${where} ${key}`).nestsRepetition) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${key}: expected a regular expression that Python can finish, got ${show(pattern)}, which repeats a ` +
        'repetition. Do not trust this adapter; if you do, write the pattern with one repetition.',
    );
  }
}

function* patternsOf(options: LoRAOptions): Generator<[key: string, pattern: string]> {
  const {targetModules, excludeModules, layersPattern, rankPattern = {}, alphaPattern = {}} = options;
  if (typeof targetModules === 'string') yield ['target_modules', targetModules];
  if (typeof excludeModules === 'string') yield ['exclude_modules', excludeModules];
  for (const pattern of [layersPattern ?? []].flat()) yield ['layers_pattern', pattern];
  for (const pattern of Object.keys(rankPattern)) yield ['rank_pattern', pattern];
  for (const pattern of Object.keys(alphaPattern)) yield ['alpha_pattern', pattern];
}
