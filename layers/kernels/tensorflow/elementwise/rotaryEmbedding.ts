import {rotaryEmbeddingOp} from '../../../ops/rotaryEmbedding.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import type {Handle} from '../device/tensorflowBackend.ts';

/** From this many numbers on, a roll takes less time than a split and a concatenation. */
const MANY = 1 << 16;

/** `RotaryEmbedding` (layers/ops/rotaryEmbedding.ts). */
export const rotaryEmbedding = opsKernel(rotaryEmbeddingOp, (ops, {x, cos, sin}) =>
  ops.areFused ? fused(ops, x, cos, sin, false) : rotated(ops, x, cos, sin),
);

/** The inverse rotation. */
export const rotaryEmbeddingGrad = opsKernel(rotaryEmbeddingOp.gradient, (ops, {dy, cos, sin}) =>
  ops.areFused ? fused(ops, dy, cos, sin, true) : turned(ops, dy, cos, sinesOf(ops, sin, true)),
);

function fused(ops: Ops, x: Handle, cos: Handle, sin: Handle, isBack: boolean): Handle {
  return ops.fused('RotaryEmbedding', [x, cos, sin], [ops.boolAttribute('back', isBack)], 1)[0];
}

/**
 * Rotates heads by their positions.
 *
 * @param x `[B, H, T, D]`
 * @param cos `[B or 1, 1, T, D/2]`
 * @param sin same shape as `cos`
 */
export function rotated(ops: Ops, x: Handle, cos: Handle, sin: Handle): Handle {
  return turned(ops, x, cos, sinesOf(ops, sin, false));
}

/** Returns `[−sin, sin]`, which all layers share; for the inverse rotation `[sin, −sin]`. */
function sinesOf(ops: Ops, sin: Handle, isBack: boolean): Handle {
  return ops.latest(`rotary sines${isBack ? ' back' : ''}`, `${sin.id}`, () => {
    const halves = [ops.one('Neg', [sin]), sin];
    return ops.concat(isBack ? halves.reverse() : halves, 3);
  });
}

/**
 * Computes `x · [cos, cos] + swapped(x) · sines`, where the halves of each head are swapped.
 *
 * @param sines `[B or 1, 1, T, D]`
 */
function turned(ops: Ops, x: Handle, cos: Handle, sines: Handle): Handle {
  const cosines = ops.latest('rotary cosines', `${cos.id}`, () => ops.concat([cos, cos], 3));
  return ops.add(ops.mul(x, cosines), ops.mul(swapped(ops, x), sines));
}

/**
 * Swaps the halves of each head: with one op for many heads; for few, starting its threads costs more than two ops, and
 * a card is slower.
 */
function swapped(ops: Ops, x: Handle): Handle {
  const half = x.shape[3] / 2;
  const size = x.shape.reduce((product, length) => product * length, 1);
  if (size >= MANY && !ops.isOnCard) return ops.one('Roll', [x, ops.integers([half]), ops.integers([3])]);
  const [first, second] = ops.split(x, 3, 2);
  return ops.concat([second, first], 3);
}
