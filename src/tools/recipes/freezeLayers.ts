import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import type {Recipe} from './recipe.ts';

/** Finds block and module in a parameter's name: `model.layers.3.self_attn.…` → `3`, `self_attn`. */
const IN_BLOCK = /\.layers\.(\d+)\.([^.]+)/;

/**
 * Freezes a model except for some blocks, as LLaMA-Factory's `finetuning_type: freeze` does. The last `blocks` of them
 * train, or the first if negative: their `modules`, or every module for `all`. So do `extraModules` outside the blocks.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown module, naming the nearest ones; the model is unchanged then
 */
export function freezeLayers(
  model: TrainableCausalLM,
  {blocks, modules, extraModules}: Recipe['freeze'],
): void {
  const {numHiddenLayers} = model.config;
  const first = blocks > 0 ? Math.max(0, numHiddenLayers - blocks) : 0;
  const end = blocks > 0 ? numHiddenLayers : Math.min(-blocks, numHiddenLayers);
  const parameters = [...model.namedParameters()];
  const places = parameters.map(([name]) => placeOf(name));
  const inside = places.filter(({block}) => block !== undefined).map(({module}) => module);
  const outside = places.filter(({block}) => block === undefined).map(({module}) => module);
  assertKnown('freeze_trainable_modules', modules, ['all', ...inside]);
  assertKnown('freeze_extra_modules', extraModules, outside);
  for (const [index, [, parameter]] of parameters.entries()) {
    const {block, module} = places[index];
    parameter.trainable =
      block === undefined
        ? extraModules.includes(module)
        : block >= first && block < end && (modules.includes('all') || modules.includes(module));
  }
}

function placeOf(name: string): {block?: number; module: string} {
  const [, block, module] = IN_BLOCK.exec(name) ?? [];
  if (block !== undefined) return {block: Number(block), module};
  return {module: name.split('.').at(-2) ?? name}; // model.norm.weight → norm
}

function assertKnown(key: string, modules: string[], known: string[]): void {
  for (const module of modules) {
    if (known.includes(module)) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${key}: expected modules of the model, got ${module}. Nearest: ${nearestNames(module, known).join(', ')}`,
    );
  }
}
