import {LoRADense, type LoRADenseClass} from '../../layers/loraDense.ts';
import type {LoRASettings} from '../../layers/loraFields.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {LoRAOptions} from './loraOptions.ts';

/**
 * Returns the options that would give layers the adapters they have, by the adapters' names. A model that was saved and
 * loaded as a TensorFlow.js model knows them only from its layers.
 *
 * @param layers the layers with adapters
 * @param linear names of all linear layers of the model, adapted or not
 * @throws TfjsLoraError `UNSUPPORTED` for an adapter whose layers differ in more than rank and alpha
 */
export function optionsOfLayers(layers: LoRADense[], linear: string[]): Map<string, LoRAOptions> {
  const names = new Set(layers.flatMap(({adapters}) => [...adapters.keys()]));
  return new Map([...names].map((name) => [name, optionsOf(name, layers, linear)]));
}

function optionsOf(adapterName: string, layers: LoRADense[], linear: string[]): LoRAOptions {
  const adapted = layers.filter(({adapters}) => adapters.has(adapterName));
  const settings = new Map(adapted.map((layer) => [layer.name, layer.adapter(adapterName).settings]));
  const layerClass = adapted[0].constructor as LoRADenseClass;
  const [first] = settings.values();
  for (const [layer, {rank: _rank, alpha: _alpha, ...common}] of settings) {
    for (const [name, value] of Object.entries(common)) {
      if (value === first[name as keyof LoRASettings]) continue;
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `adapter "${adapterName}" ${name}: expected one value for all layers, got ${value} for ${layer} and ` +
          `${first[name as keyof LoRASettings]} for another`,
      );
    }
  }
  return {
    ...first,
    adapterName,
    targetModules: targetsOf([...settings.keys()], linear),
    rankPattern: patternOf(settings, 'rank'),
    alphaPattern: patternOf(settings, 'alpha'),
    ...(layerClass !== LoRADense && {layerClass}),
  };
}

/** Returns a list of names, or a regular expression if a name is also the end of a name that is not a target. */
function targetsOf(names: string[], linear: string[]): string[] | string {
  const isAmbiguous = linear.some(
    (other) => !names.includes(other) && names.some((name) => other.endsWith(`.${name}`)),
  );
  return isAmbiguous ? names.map(escaped).join('|') : names;
}

/** Returns nothing when all layers agree, otherwise every layer, longest first, so that no name hides another. */
function patternOf(settings: Map<string, LoRASettings>, field: 'rank' | 'alpha'): Record<string, number> {
  const values = [...settings].map(([name, {[field]: value}]) => [name, value] as const);
  if (values.every(([, value]) => value === values[0][1])) return {};
  const longestFirst = values.sort(([a], [b]) => b.length - a.length);
  return Object.fromEntries(longestFirst.map(([name, value]) => [escaped(name), value]));
}

const escaped = (name: string) => name.replace(/[^\w]/g, '\\$&');
