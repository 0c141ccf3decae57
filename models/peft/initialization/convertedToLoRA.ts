import {LoRAEmbedding} from '../../../layers/loraEmbedding.ts';
import type {Parameter} from '../../../layers/parameter.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {AdapterSet} from '../adapterSet.ts';
import {type DenseValues, joined, stacked} from '../denseValues.ts';

/** A converted adapter: its matrices by the layer's name, and what changes in its config. */
export interface ConvertedAdapter {
  layers: Map<
    string,
    {shapes: {a: number[]; b: number[]}; a: () => Promise<Float32Array>; b: () => Promise<Float32Array>}
  >;
  config: (config: Record<string, unknown>) => Record<string, unknown>;
}

/**
 * Returns an adapter, whose initialization subtracted its first update from the base, as one for the unchanged base: `[A;
 * A₀]` and `[B, −B₀]`, of twice the rank and with the same scale. PEFT's `path_initial_model_for_weight_conversion`.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for an adapter without such a first update, or with settings that PEFT cannot
 *   convert either
 */
export function convertedToLoRA(adapters: AdapterSet, adapterName: string): ConvertedAdapter {
  const {initial} = adapters.initialized(adapterName) ?? {};
  const refuse = (expected: string, got: string) =>
    new TfjsLoraError('UNSUPPORTED', `convertToLoRA of "${adapterName}": expected ${expected}, got ${got}`);
  if (!initial?.size) {
    const method = adapters.initialized(adapterName)?.method ?? 'another';
    throw refuse('an adapter that was initialized by pissa, olora, corda or lora_ga', method);
  }
  for (const [name, layer] of adapters.layers())
    if (layer instanceof LoRAEmbedding && layer.adapters.has(adapterName))
      throw refuse('an adapter of linear layers alone, because PEFT converts only these', `one of ${name}`);
  const {rankPattern = {}, alphaPattern = {}} = adapters.options(adapterName);
  const hasPatterns = Object.keys({...rankPattern, ...alphaPattern}).length > 0;
  const layers: ConvertedAdapter['layers'] = new Map();
  for (const [name, first] of initial) {
    const {loraA, loraB, settings} = adapters.lowRank().get(name)!.adapter(adapterName);
    if (settings.useDoRA) throw refuse('an adapter without magnitudes', 'DoRA');
    if (settings.useRsLoRA && hasPatterns) throw refuse('one rank and alpha with useRsLoRA', 'patterns');
    const {rank} = settings;
    const [inputDim, units] = [loraA.logicalShape[1], loraB.logicalShape[0]];
    const negated = first.b.map((value) => -value);
    layers.set(name, {
      shapes: {a: [2 * rank, inputDim], b: [units, 2 * rank]},
      a: async () => stacked(await withFirst(loraA, first.a)).values,
      b: async () => joined(await withFirst(loraB, negated)).values,
    });
  }
  return {layers, config: doubled};
}

/** Returns a matrix as it is now, and one of the same shape. */
async function withFirst(parameter: Parameter, first: Float32Array): Promise<DenseValues[]> {
  const [rows, cols] = parameter.logicalShape;
  const values = (await parameter.read().data()) as Float32Array;
  return [values, first].map((each) => ({rows, cols, values: each}));
}

/** The config with twice the rank and the same scale, for a plain LoRA. */
function doubled(config: Record<string, unknown>): Record<string, unknown> {
  const twice = (value: unknown) => 2 * (value as number);
  const each = (pattern: unknown) =>
    Object.fromEntries(Object.entries(pattern ?? {}).map(([key, value]) => [key, twice(value)]));
  return {
    ...config,
    r: twice(config.r),
    lora_alpha: config.use_rslora ? Math.SQRT2 * (config.lora_alpha as number) : twice(config.lora_alpha),
    rank_pattern: each(config.rank_pattern),
    alpha_pattern: each(config.alpha_pattern),
    init_lora_weights: true,
  };
}
