import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';
import type {CausalLM} from './causalLM.ts';
import {Gemma2ForCausalLM} from './gemma/gemma2.ts';
import {Gemma3ForCausalLM} from './gemma/gemma3.ts';
import {LlamaForCausalLM} from './llama/llama.ts';
import {MistralForCausalLM} from './mistral/mistral.ts';
import type {ModelClass} from './modelClass.ts';
import {Phi3ForCausalLM} from './phi3/phi3.ts';
import {Qwen2ForCausalLM} from './qwen2/qwen2.ts';
import {Qwen3ForCausalLM} from './qwen3/qwen3.ts';
import {SmolLM3ForCausalLM} from './smollm3/smollm3.ts';

const families: ModelClass<CausalLM>[] = [];

/**
 * Registers a model family under its `model_type`, so that `AutoModelForCausalLM`, recipes and the command line open
 * its folders. The families of the library are built in.
 *
 * @param model the class, with its own `modelType` and `architecture`
 * @throws TfjsLoraError `INVALID_ARGUMENT` when one is missing or belongs to another family. Registering the same class
 *   again does nothing, so that a notebook's cell may run twice
 * @example
 * ```ts
 * import {AutoModelForCausalLM} from 'tfjs-lora';
 * import {LlamaForCausalLM, registerModel} from 'tfjs-lora/models';
 *
 * class MineForCausalLM extends LlamaForCausalLM {
 *   static override className = 'MineForCausalLM';
 *   static override readonly modelType = 'mine'; // `model_type` in config.json
 *   static override readonly architecture = 'MineForCausalLM';
 * }
 * registerModel(MineForCausalLM);
 * const model = await AutoModelForCausalLM.fromPretrained('folder-of-mine');
 * ```
 */
export function registerModel(model: ModelClass<CausalLM>): void {
  if (families.includes(model)) return;
  for (const key of ['modelType', 'architecture'] as const) {
    const taken = families.map((family) => family[key]);
    if (model[key] && !taken.includes(model[key])) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerModel ${key}: expected a new name, got ${show(model[key])}, with ${taken.join(', ')} taken. ` +
        `Give the class a static ${key}.`,
    );
  }
  families.push(model);
}

/** Returns the `model_type` of every registered family, in the order of registration. */
export function modelTypes(): string[] {
  return families.map(({modelType}) => modelType);
}

/**
 * Returns the class of the model that a `config.json` describes.
 *
 * @param json contents of the file
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` for a `model_type` that is not registered
 */
export function modelClassOf(json: Record<string, unknown>, where: string): ModelClass<CausalLM> {
  const family = families.find(({modelType}) => modelType === json.model_type);
  if (family) return family;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${where} model_type: expected one of ${modelTypes().join(', ')}, got ${show(json.model_type)}. ` +
      'Add other families with registerModel.',
  );
}

for (const family of [
  LlamaForCausalLM,
  MistralForCausalLM,
  Qwen2ForCausalLM,
  Qwen3ForCausalLM,
  Gemma2ForCausalLM,
  Gemma3ForCausalLM,
  Phi3ForCausalLM,
  SmolLM3ForCausalLM,
]) {
  registerModel(family);
}
