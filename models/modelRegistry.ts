import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';
import type {CausalLM} from './causalLM.ts';
import {LlamaForCausalLM} from './llama/llama.ts';
import type {ModelClass} from './modelClass.ts';

const families: ModelClass<CausalLM>[] = [];

/**
 * Makes a model family known by its `model_type`, so that `AutoModelForCausalLM`, recipes and the command line open its
 * folders. The families of the library are known from the start.
 *
 * @param model the class, with a `modelType` and an `architecture` of its own
 * @throws TfjsLoraError `INVALID_ARGUMENT` when it has none, or another family has them. Registering the same class again
 *   does nothing, so that a notebook's cell may run twice
 */
export function registerModel(model: ModelClass<CausalLM>): void {
  if (families.includes(model)) return;
  for (const key of ['modelType', 'architecture'] as const) {
    const taken = families.map((family) => family[key]);
    if (model[key] && !taken.includes(model[key])) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerModel ${key}: expected a name of its own, got ${show(model[key])}, with ${taken.join(', ')} taken. ` +
        `Give the class a static ${key}.`,
    );
  }
  families.push(model);
}

/** The `model_type` of every registered family, in the order they came. */
export function modelTypes(): string[] {
  return families.map(({modelType}) => modelType);
}

/**
 * The class whose models a `config.json` describes.
 *
 * @param json its contents
 * @param where names the file in errors
 * @throws TfjsLoraError `UNSUPPORTED` for a `model_type` that is not registered
 */
export function modelClassOf(json: Record<string, unknown>, where: string): ModelClass<CausalLM> {
  const family = families.find(({modelType}) => modelType === json.model_type);
  if (family) return family;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${where} model_type: expected one of ${modelTypes().join(', ')}, got ${show(json.model_type)}. ` +
      'Add a family of your own with registerModel.',
  );
}

registerModel(LlamaForCausalLM);
