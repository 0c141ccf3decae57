import type {LoRAAdapterArgs} from '../../layers/loraFields.ts';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {PythonPattern} from '../patterns/pythonPattern.ts';
import {isSaved} from './savedModules.ts';

/**
 * The layers to adapt, as in PEFT: `'all-linear'` is every linear layer except the output head; a list names layers by
 * their full name or its end (`q_proj`); any other string is a regular expression of Python's `re`, which must match
 * the whole name, as a RegExp must.
 */
export type TargetModules = 'all-linear' | string | string[] | RegExp;

/** The layers of a model that a target may name. */
export interface TargetCandidates {
  /** Linear layers that can be adapted. */
  linear: string[];
  /** The output head, if there is one; `all-linear` excludes it. */
  head?: string;
  /** Embeddings, which only names and expressions select. */
  embeddings?: string[];
  /** Layers that cannot be adapted, with the reason. */
  refused: Map<string, string>;
}

export interface TargetOptions {
  /** Layers to leave out: a list of names or their ends, or a regular expression for the whole name. */
  excludeModules?: string | string[];
  /** Name of the list of blocks. Default: the first part of a name that a number follows. */
  layersPattern?: string | string[];
  /** Modules that adapters copy whole, and which get no low-rank update: names or their ends. */
  modulesToSave?: string[];
  /** Whether a list may have names without a match if another matches, as in PEFT. Default false: it may be a typo. */
  allowForeign?: boolean;
}

/**
 * Returns the names of the linear layers that `targets` selects, in the model's order.
 *
 * @param layersToTransform decoder blocks to adapt, counted from 0; all if omitted or empty. As in PEFT, a layer that a
 *   list names in full is adapted in any block
 * @throws TfjsLoraError `UNKNOWN_TARGET` when a target matches nothing, `UNSUPPORTED` when it matches a layer that
 *   cannot be adapted
 */
export function matchTargets(
  targets: TargetModules,
  {linear, head, embeddings = [], refused}: TargetCandidates,
  layersToTransform?: number | number[],
  {excludeModules, layersPattern, modulesToSave, allowForeign = false}: TargetOptions = {},
): string[] {
  const all = [...embeddings, ...linear];
  const isListed = exclusion(excludeModules, allowForeign ? undefined : [...all, ...refused.keys()]);
  const isCopied = isSaved(modulesToSave);
  const isExcluded = (name: string) => isListed(name) || isCopied(name);
  const isInBlocks = blockFilter(layersToTransform, layersPattern);
  const kept = (names: string[], listed: string[] = []) => {
    const chosen = names.filter((name) => !isExcluded(name));
    if (chosen.length === 0)
      throw isListed(names[0])
        ? nothingLeft('excludeModules', excludeModules)
        : nothingLeft('modulesToSave', modulesToSave);
    const inBlocks = chosen.filter((name) => listed.includes(name) || isInBlocks(name));
    if (inBlocks.length === 0) throw nothingLeft('layersToTransform', layersToTransform);
    return inBlocks;
  };
  if (targets === 'all-linear') return kept(linear.filter((name) => name !== head));
  const isList = Array.isArray(targets);
  const single: (string | RegExp)[] = isList ? targets : [targets];
  if (single.length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'LoRA targetModules: expected at least one target, got an empty list',
    );
  }
  const selected = new Set<string>();
  const foreign: (string | RegExp)[] = [];
  for (const target of single) {
    const matches = isList ? endsWith(target as string) : fullMatch(target, 'LoRA target');
    for (const [name, reason] of refused) {
      if (matches(name) && !isExcluded(name))
        throw new TfjsLoraError('UNSUPPORTED', `LoRA target ${target}: ${name} cannot be adapted: ${reason}`);
    }
    const found = all.filter(matches);
    if (found.length === 0 && ![...refused.keys()].some(matches)) foreign.push(target);
    for (const name of found) selected.add(name);
  }
  if (foreign.length > 0 && !(allowForeign && selected.size > 0))
    throw unknownTarget(foreign[0], all, isList);
  return kept(
    all.filter((name) => selected.has(name)),
    isList ? targets : [],
  );
}

/**
 * Returns the names of the linear layers whose weights PEFT's `target_parameters` lists.
 *
 * @param options the settings of the adapter, of which PEFT refuses some for parameters
 * @throws TfjsLoraError `UNKNOWN_TARGET`, `UNSUPPORTED`
 */
export function matchParameters(
  parameters: string[],
  {linear, embeddings = [], refused}: TargetCandidates,
  options: Pick<LoRAAdapterArgs, 'dropout' | 'useDoRA' | 'loraBias'>,
): string[] {
  if (parameters.length === 0) return [];
  const excluded = (['dropout', 'useDoRA', 'loraBias'] as const).find((name) => options[name]);
  if (excluded !== undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA targetParameters: expected no ${excluded}, got ${options[excluded]}. PEFT refuses this too; use targetModules.`,
    );
  }
  for (const parameter of parameters) {
    const matches = endsWith(parameter);
    const [other] = [...refused].find(([name]) => matches(`${name}.weight`)) ?? [];
    if (other !== undefined)
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `LoRA targetParameters ${parameter}: ${other} cannot be adapted: ${refused.get(other)}`,
      );
    const embedding = embeddings.find((name) => matches(`${name}.weight`));
    if (embedding !== undefined)
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `LoRA targetParameters ${parameter}: ${embedding} cannot be adapted so: it is an embedding. Use targetModules.`,
      );
    if (!linear.some((name) => matches(`${name}.weight`)))
      throw unknownTarget(
        parameter,
        linear.map((name) => `${name}.weight`),
        true,
        'targetParameters',
      );
  }
  return linear.filter((name) => parameters.some((parameter) => endsWith(parameter)(`${name}.weight`)));
}

/** @param known names of which each exclusion must match one, because an exclusion without a match may be a typo */
function exclusion(excluded: TargetOptions['excludeModules'], known?: string[]): (name: string) => boolean {
  if (excluded === undefined || excluded.length === 0) return () => false;
  const isList = Array.isArray(excluded);
  const tests = [excluded].flat().map((pattern) => {
    const matches = isList ? endsWith(pattern) : fullMatch(pattern, 'LoRA excludeModules');
    if (known && !known.some(matches)) throw unknownTarget(pattern, known, isList, 'excludeModules');
    return matches;
  });
  return (name) => tests.some((matches) => matches(name));
}

/** Returns whether a layer is in one of the blocks: `model.layers.3.…` is in block 3, `lm_head` in none. */
function blockFilter(
  layersToTransform: number | number[] | undefined,
  layersPattern: string | string[] | undefined,
): (name: string) => boolean {
  const blocks = layersToTransform === undefined ? [] : [layersToTransform].flat();
  if (blocks.length === 0) return () => true;
  const lists = [layersPattern ?? []].flat().filter((list) => list !== '');
  const isList = lists.map((list) => fullMatch(`(?:.*\\.)?(?:${list})`, 'LoRA layersPattern'));
  return (name) => {
    const parts = name.split('.');
    const isBlock = (part: string, i: number): boolean => {
      if (!/^\d+$/.test(part) || i === parts.length - 1) return false;
      return lists.length === 0 ? i >= 2 : isList.some((matches) => matches(parts.slice(0, i).join('.')));
    };
    const block = parts.find(isBlock);
    return block !== undefined && blocks.includes(Number(block));
  };
}

function nothingLeft(option: string, value: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'UNKNOWN_TARGET',
    `LoRA ${option}: expected layers that have a target, got ${[value].flat().join(', ')}`,
  );
}

const endsWith = (target: string) => (name: string) => name === target || name.endsWith(`.${target}`);

/** Returns whether a whole name matches, a string as in Python's `re.fullmatch`. `what` is the option, for errors. */
function fullMatch(pattern: string | RegExp, what: string): (name: string) => boolean {
  if (typeof pattern === 'string') {
    const compiled = new PythonPattern(pattern, what);
    return (name) => compiled.fullMatch(name);
  }
  const whole = new RegExp(`^(?:${pattern.source})$`, pattern.flags.replace(/[gy]/g, ''));
  return (name) => whole.test(name);
}

/** Writes the list that was probably meant by a text: its own names if it lists names, or else the nearest one. */
function namesFor(target: string, lastNames: string[]): string {
  const listed = target.split(',').map((name) => name.trim());
  const known = listed.every((name) => lastNames.includes(name))
    ? listed
    : nearestNames(target, lastNames, 1);
  return JSON.stringify(known).replaceAll(',', ', ');
}

function unknownTarget(
  target: string | RegExp,
  linear: string[],
  isName: boolean,
  option = 'target',
): TfjsLoraError {
  const lastNames = linear.map((name) => name.slice(name.lastIndexOf('.') + 1));
  const nearest = nearestNames(String(target), String(target).includes('.') ? linear : lastNames, 3).join(
    ', ',
  );
  const advice = isName
    ? `Nearest: ${nearest}.`
    : ['all', 'all_linear'].includes(String(target))
      ? "For every linear layer, pass 'all-linear'."
      : `A string is a regular expression for the whole name (${linear[0]}); ` +
        `pass a list for names: ${namesFor(String(target), lastNames)}.`;
  return new TfjsLoraError(
    'UNKNOWN_TARGET',
    `LoRA ${option} ${target}: expected a linear layer of the model, got no match. ${advice}`,
  );
}
