import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import type {ModuleLayer} from '../../layers/moduleLayer.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TokenRowsLayer} from '../../layers/tokenRowsLayer.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import type {LoRAOptions} from './loraOptions.ts';
import {originalOf} from './originalOf.ts';
import {modulesOf} from './savedModules.ts';
import {tiedPair} from './tiedPair.ts';
import {wrongOption} from './wrongOption.ts';

/** The tokens whose rows train in a layer. */
export interface TokenPlan {
  layer: ModuleLayer;
  indices: number[];
  /** For a head that is tied to it, the embedding whose rows it uses. */
  tiedTo?: ModuleLayer;
}

/**
 * Returns the layers in which PEFT's `trainable_token_indices` trains rows. As there, a list means the embedding, and a
 * head that is tied to it follows unless it has other tokens.
 *
 * @param taken names of layers that the same adapter trains otherwise
 * @throws TfjsLoraError `UNKNOWN_TARGET`, `INVALID_ARGUMENT` for impossible tokens, `UNSUPPORTED` for a layer that has
 *   other adapters, is quantized, or is neither an embedding nor the head
 */
export function tokenPlans(
  {trainableTokenIndices: given, ensureWeightTying}: LoRAOptions,
  {layers, lm_head}: LayeredModel,
  taken: readonly string[],
): TokenPlan[] {
  if (given === undefined) return [];
  if (given && !lm_head) throw wrong('none for a Keras model', show(given));
  const modules = modulesOf(layers);
  const tied = tiedPair(layers, modules);
  const plans = Array.isArray(given)
    ? modules.filter(isEmbedding).map((layer) => ({layer, indices: given}))
    : Object.entries(given).flatMap(([name, indices]) =>
        named(name, modules).map((layer) => ({layer, indices})),
      );
  const planOf = (layer: ModuleLayer | undefined) => plans.find((plan) => plan.layer === layer);
  const [ofEmbedding, ofHead] = [planOf(tied?.embedding), planOf(tied?.head)];
  const differs = ofEmbedding && ofHead && show(ofEmbedding.indices) !== show(ofHead.indices);
  if (differs && ensureWeightTying)
    throw wrong('one list for layers with tied weights, or ensureWeightTying: false', show(given));
  const all: TokenPlan[] =
    tied && ofEmbedding && !differs
      ? [
          ...plans.filter(({layer}) => layer !== tied.head),
          {layer: tied.head, indices: ofEmbedding.indices, tiedTo: tied.embedding},
        ]
      : plans;
  for (const plan of all) assertPossible(plan, lm_head?.name, taken);
  return all;
}

const isEmbedding = (layer: ModuleLayer): boolean => originalOf(layer) instanceof TokenEmbedding;

function named(name: string, modules: readonly ModuleLayer[]): ModuleLayer[] {
  const found = modules.filter((layer) => layer.name.endsWith(name));
  if (found.length > 0) return found;
  throw new TfjsLoraError(
    'UNKNOWN_TARGET',
    `LoRA trainableTokenIndices ${name}: expected the end of a layer's name, such as embed_tokens, got no match`,
  );
}

function assertPossible(
  {layer, indices}: TokenPlan,
  head: string | undefined,
  taken: readonly string[],
): void {
  const own = originalOf(layer);
  const refuse = (expected: string, got: string) =>
    new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA trainableTokenIndices ${layer.name}: expected ${expected}, got ${got}`,
    );
  if (!isEmbedding(layer) && !(own instanceof TransposedDense && layer.name === head))
    throw refuse('the embedding or the output head', `a ${own.constructor.name}`);
  if (own instanceof QuantizedDense) throw refuse('a layer in 16 or 32 bits', 'a quantized one');
  if (own instanceof TransposedDense && own.bias) throw refuse('a head without a bias', 'one with a bias');
  if (taken.includes(layer.name) || (layer instanceof AdaptedLayer && !(layer instanceof TokenRowsLayer)))
    throw refuse('a layer without other adapters', 'one that targetModules or modulesToSave names');
  const [vocabSize] = (own as TokenEmbedding | TransposedDense).weight.logicalShape;
  const isToken = (index: number) => Number.isInteger(index) && index >= 0 && index < vocabSize;
  if (
    !Array.isArray(indices) ||
    indices.length === 0 ||
    !indices.every(isToken) ||
    new Set(indices).size < indices.length
  )
    throw wrong(`token ids from 0 to ${vocabSize - 1}, each once`, show(indices));
}

const wrong = (expected: string, got: string) => wrongOption('trainableTokenIndices', expected, got);
