import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {PythonPattern} from '../patterns/pythonPattern.ts';

/**
 * Which layers an adapter goes to, with PEFT's meaning: `'all-linear'` is every linear layer but the output head;
 * a list names layers by their full name or its end (`q_proj`); any other string is a regular expression of
 * Python's `re` that must match the whole name, as a RegExp must.
 */
export type TargetModules = 'all-linear' | string | string[] | RegExp;

/** The layers of a model that a target may name. */
export interface TargetCandidates {
  /** Linear layers that can be adapted. */
  linear: string[];
  /** The output head, which `all-linear` leaves out. */
  head: string;
  /** Layers that cannot be adapted, with the reason. */
  refused: Map<string, string>;
}

/**
 * Names of the linear layers that `targets` selects, in the model's order.
 *
 * @throws TfjsLoraError `UNKNOWN_TARGET` when a target matches nothing, `UNSUPPORTED` when it matches a layer that
 *   cannot be adapted
 */
export function matchTargets(
  targets: TargetModules,
  {linear, head, refused}: TargetCandidates,
  layersToTransform?: number[],
): string[] {
  if (targets === 'all-linear') {
    return inLayers(
      linear.filter((name) => name !== head),
      layersToTransform,
    );
  }
  const single = (Array.isArray(targets) ? targets : [targets]) as (string | RegExp)[];
  if (single.length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'LoRA targetModules: expected at least one target, got an empty list',
    );
  }
  const selected = new Set<string>();
  for (const target of single) {
    const matches = Array.isArray(targets) ? endsWith(target as string) : fullMatch(target);
    for (const [name, reason] of refused) {
      if (matches(name))
        throw new TfjsLoraError('UNSUPPORTED', `LoRA target ${target}: ${name} cannot be adapted: ${reason}`);
    }
    const found = linear.filter(matches);
    if (found.length === 0) throw unknownTarget(target, linear, Array.isArray(targets));
    for (const name of found) selected.add(name);
  }
  return inLayers(
    linear.filter((name) => selected.has(name)),
    layersToTransform,
  );
}

function inLayers(names: string[], layersToTransform?: number[]): string[] {
  const chosen = names.filter((name) => isInLayers(name, layersToTransform));
  if (chosen.length > 0) return chosen;
  throw new TfjsLoraError(
    'UNKNOWN_TARGET',
    `LoRA layersToTransform: expected layers that have a target, got ${layersToTransform?.join(', ')}`,
  );
}

const endsWith = (target: string) => (name: string) => name === target || name.endsWith(`.${target}`);

function fullMatch(pattern: string | RegExp): (name: string) => boolean {
  if (typeof pattern === 'string') {
    const compiled = new PythonPattern(pattern, 'LoRA target');
    return (name) => compiled.fullMatch(name);
  }
  const whole = new RegExp(`^(?:${pattern.source})$`, pattern.flags.replace(/[gy]/g, ''));
  return (name) => whole.test(name);
}

/** `model.layers.3.…` is in layer 3; a layer outside the stack is in none. */
function isInLayers(name: string, layers?: number[]): boolean {
  if (!layers) return true;
  const index = /\.layers\.(\d+)\./.exec(name)?.[1];
  return index !== undefined && layers.includes(Number(index));
}

function unknownTarget(target: string | RegExp, linear: string[], isName: boolean): TfjsLoraError {
  const lastNames = linear.map((name) => name.slice(name.lastIndexOf('.') + 1));
  const nearest = nearestNames(String(target), String(target).includes('.') ? linear : lastNames, 3).join(
    ', ',
  );
  const advice = isName
    ? `Nearest: ${nearest}.`
    : `A string is a regular expression for the whole name (${linear[0]}); pass a list for names: ["${nearest.split(',')[0]}"].`;
  return new TfjsLoraError(
    'UNKNOWN_TARGET',
    `LoRA target ${target}: expected a linear layer of the model, got no match. ${advice}`,
  );
}
