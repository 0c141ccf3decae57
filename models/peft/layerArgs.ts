import {DEFAULT_ADAPTER} from '../../layers/adapter.ts';
import {hashName} from '../../layers/hashName.ts';
import {type LoRAAdapterArgs, type LoRAFields, loraArgs} from '../../layers/loraFields.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {PythonPattern} from '../patterns/pythonPattern.ts';
import {commonSettings, type LoRAOptions} from './loraOptions.ts';

/** Returns the settings of a layer by its name. The first matching pattern overrides the common ones, as in PEFT. */
export function layerArgs(options: LoRAOptions, fields?: LoRAFields): (name: string) => LoRAAdapterArgs {
  const {seed = 0, adapterName = DEFAULT_ADAPTER} = options;
  const {rank, alpha} = commonSettings(options, fields);
  const [rankOf, alphaOf] = [
    patternValues(options.rankPattern ?? {}),
    patternValues(options.alphaPattern ?? {}),
  ];
  return (name) => {
    const own = {
      rank: rankOf(name) ?? rank,
      alpha: alphaOf(name) ?? alpha,
      seed: seed + hashName(`${name}.${adapterName}`),
    };
    return loraArgs({...options, ...own}, fields) as LoRAAdapterArgs;
  };
}

/** @throws TfjsLoraError `UNKNOWN_TARGET` for a pattern without an adapted layer: its rank or alpha would be lost */
export function assertPatternsMatch(options: LoRAOptions, targets: string[]): void {
  for (const option of ['rankPattern', 'alphaPattern'] as const) {
    for (const [key, value] of Object.entries(options[option] ?? {})) {
      const valueFor = patternValues({[key]: value});
      if (targets.some((name) => valueFor(name) !== undefined)) continue;
      const parts = targets.flatMap((name) => [name, name.slice(name.lastIndexOf('.') + 1)]);
      throw new TfjsLoraError(
        'UNKNOWN_TARGET',
        `LoRA ${option} ${show(key)}: expected the end of an adapted layer's name, or a regular expression for it, ` +
          `got no match. Nearest: ${nearestNames(key, parts).join(', ')}.`,
      );
    }
  }
}

/** Returns the value of the first pattern that matches a name or its end. */
function patternValues(values: Record<string, number>): (name: string) => number | undefined {
  const patterns = Object.entries(values).map(([key, value]) => {
    return {value, pattern: new PythonPattern(`(?:.*\\.)?(?:${key})$`, `LoRA pattern ${show(key)}`)};
  });
  return (name) => patterns.find(({pattern}) => pattern.match(name))?.value;
}
