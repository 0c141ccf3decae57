import {dynamicMap} from '../../../../quant/blockwise/codebooks.ts';
import {codesOfSteps} from '../../../../quant/blockwise/dynamic8Bit.ts';
import {type OptimizerRule, optimizerUpdatesOp} from '../../../ops/optimizerUpdates.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';
import {adamWFactors} from './adamWUpdate.ts';

/** Numbers of the rules in `native/cuda/engine.h`, and the number of tensors in a variable's state. */
const RULES = {AdamW: [0, 2], AdamW8bit: [1, 4], Lion: [2, 1], Lion8bit: [3, 2]} as const;

/** `OptimizerUpdates` (layers/ops/optimizerUpdates.ts), on a card: one op for all variables. */
export const optimizerUpdates = opsKernel(optimizerUpdatesOp, (ops, given, {maxNorm, ...rule}) => {
  const hasNorm = maxNorm !== undefined;
  const clipping = hasNorm ? {norm: given[given.length - 1], maxNorm} : undefined;
  return updatesOnCard(ops, hasNorm ? given.slice(0, -1) : given, rule, clipping);
});

/**
 * Updates variables on a card. Codes and scales equal those of the steps in `layers/kernels/steps`; a state that is not
 * finite is not refused, because nothing is read here.
 *
 * @param given value, gradient and state of each variable in turn
 */
export function updatesOnCard(
  ops: Ops,
  given: Handle[],
  rule: OptimizerRule,
  clipping?: {norm: Handle; maxNorm: number},
): Handle[] {
  const [number, states] = RULES[rule.rule];
  const [taken, made] = [2 + states, 1 + states];
  const count = given.length / taken;
  const asFloats = (handle: Handle) =>
    handle.dtype === DataType.int32 ? ops.bitcast(handle, DataType.float32) : handle;
  const byKind = Array.from({length: taken}, (_, kind) => given.filter((_, i) => i % taken === kind)).flat();
  const factors = [...factorsOf(rule), clipping?.maxNorm ?? 0];
  const inputs = [
    ...byKind.map(asFloats),
    ops.constant([factors.length], Float32Array.from(factors)),
    rule.rule.endsWith('8bit') ? maps(ops) : ops.nothing(),
    clipping?.norm ?? ops.nothing(),
  ];
  const attributes = [
    ops.listAttribute('rule', 'int', [number]),
    ops.intAttribute('N', count),
    ops.intAttribute('M', states * count),
  ];
  const outputs = ops.fused('OptimizerUpdates', inputs, attributes, made * count);
  return Array.from({length: made * count}, (_, i) => {
    const [variable, kind] = [Math.floor(i / made), i % made];
    const output = outputs[kind * count + variable];
    const isCodes = given[variable * taken + (kind === 0 ? 0 : kind + 1)].dtype === DataType.int32;
    return isCodes ? ops.bitcast(output, DataType.int32) : output; // the memory of `output`, on the card
  });
}

/** Returns the factors in the order in which `native/cuda/kernels/optimizer.cu` reads them. */
function factorsOf({rule, settings}: OptimizerRule): number[] {
  const {learningRate, beta1, beta2, weightDecay} = settings;
  const keep = 1 - learningRate * weightDecay;
  const shares = [beta1, 1 - beta1, beta2, 1 - beta2];
  if (rule === 'AdamW') return adamWFactors(settings);
  if (rule !== 'AdamW8bit') return [...shares, keep, learningRate];
  const {epsilon, step} = settings;
  return [...shares, Math.sqrt(1 - beta2 ** step), epsilon, keep, -learningRate / (1 - beta1 ** step)];
}

/** Returns the signed and the unsigned map, each with the codes of its steps, as words. */
function maps(ops: Ops): Handle {
  const parts = [true, false].flatMap((isSigned) => {
    const map = dynamicMap(isSigned);
    return [new Uint8Array(map.buffer, map.byteOffset, map.byteLength), codesOfSteps(map)];
  });
  const bytes = parts.reduce((sum, {length}) => sum + length, 0);
  return ops.table('maps of 8 bits', [bytes / 4], () => {
    const words = new Float32Array(bytes / 4);
    const target = new Uint8Array(words.buffer);
    parts.reduce((at, part) => {
      target.set(part, at);
      return at + part.length;
    }, 0);
    return words;
  });
}
