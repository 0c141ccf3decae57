import seedrandom from 'seedrandom';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {DenseValues} from '../denseValues.ts';
import {truncatedSvd} from '../truncatedSvd.ts';
import type {InitialValues} from './initializations.ts';

/** Settings of LoRA-GA, as PEFT's `LoraGAConfig`. */
export interface LoraGAConfig {
  /**
   * Which of the gradient's first `2 · rank` directions become A and B: `ArB2r` takes the first half for A and the
   * second for B, `A2rBr` the other way round, `ArBr` every second, and `random` the same random ones for both. Default
   * `ArB2r`.
   */
  direction?: 'ArBr' | 'A2rBr' | 'ArB2r' | 'random';
  /**
   * How B is scaled: by `units^¼ / √stableGamma`; to the largest singular value of the weight (`weight_svd`); both A and
   * B divided by the adapter's scale (`gd_scale`); or not at all (`unit`). Default `stable`.
   */
  scale?: 'stable' | 'weight_svd' | 'gd_scale' | 'unit';
  /** Default 16. */
  stableGamma?: number;
}
export const LORA_GA_DEFAULTS = {
  direction: 'ArB2r',
  scale: 'stable',
  stableGamma: 16,
} satisfies Required<LoraGAConfig>;

export const LORA_GA_SCALES = ['stable', 'weight_svd', 'gd_scale', 'unit'];

/** Indices of the directions for A and for B. */
export const LORA_GA_DIRECTIONS: Record<
  Required<LoraGAConfig>['direction'],
  (rank: number, random: () => number) => [number[], number[]]
> = {
  ArBr: (rank) => [range(rank, (i) => 2 * i + 1), range(rank, (i) => 2 * i)],
  A2rBr: (rank) => [range(rank, (i) => rank + i), range(rank, (i) => i)],
  ArB2r: (rank) => [range(rank, (i) => i), range(rank, (i) => rank + i)],
  random: (rank, random) => {
    const shuffled = range(2 * rank, (index) => ({index, place: random()})).sort((a, b) => a.place - b.place);
    const chosen = shuffled.slice(0, rank).map(({index}) => index);
    return [chosen, chosen];
  },
};

const range = <T>(length: number, of: (i: number) => T): T[] => Array.from({length}, (_, i) => of(i));

/**
 * The adapter starts in directions of the gradient, and the base gives up its first update. Wang et al. 2024, as PEFT's
 * `lora_ga_init`. The signs of the directions are arbitrary, so A and B may differ from PEFT's in the signs of their rows
 * and columns.
 *
 * @param gradient of the loss with respect to the weight, with at least `2 · rank` directions
 */
export function loraGA(
  weight: DenseValues,
  gradient: DenseValues,
  {rank, scaling, seed}: {rank: number; scaling: number; seed: number},
  {direction, scale, stableGamma}: Required<LoraGAConfig>,
): InitialValues {
  const {rows, cols} = weight;
  const {u, s, v} = truncatedSvd(gradient, 2 * rank);
  const [ofA, ofB] = LORA_GA_DIRECTIONS[direction](rank, seedrandom(String(seed)));
  const factor = {
    stable: () => rows ** 0.25 / Math.sqrt(stableGamma),
    weight_svd: () => (s[ofB[0]] > 0 ? truncatedSvd(weight, 1).s[0] / s[ofB[0]] : 1),
    gd_scale: () => 1 / scaling,
    unit: () => 1,
  }[scale]();
  const divisor = scale === 'gd_scale' ? scaling : 1;
  return {
    a: Float32Array.from({length: rank * cols}, (_, i) => v[ofA[Math.floor(i / cols)]][i % cols] / divisor),
    b: Float32Array.from({length: rows * rank}, (_, i) => {
      const index = ofB[i % rank];
      return factor * s[index] * u[index][Math.floor(i / rank)];
    }),
    base: 'residual',
  };
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` for a rank above half of the weight's smaller side */
export function assertGradientRank(rank: number, shape: number[], where: string): void {
  const most = Math.floor(Math.min(...shape) / 2);
  if (rank <= most) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `lora_ga for ${where}: expected a rank of at most ${most}, half of its smaller side, got ${rank}`,
  );
}
