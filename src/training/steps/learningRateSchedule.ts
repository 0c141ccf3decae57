import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';

/** Function that returns the factor on the base learning rate for an update, counted from 0. */
export type LearningRateSchedule = (step: number) => number;

export interface ScheduleArgs {
  /**
   * Number of updates over which the rate rises from 0. Default, also for 0: `warmupRatio · totalSteps`, rounded up.
   */
  warmupSteps?: number;
  /** Share of `totalSteps` to warm up over, 0 … 1. Default 0. */
  warmupRatio?: number;
  /** Number of updates in the whole run; the trainer fills it in if known. */
  totalSteps?: number;
  /** Periods of the cosines and of `warmup_stable_decay` (default 0.5), and of `cosine_with_restarts` (default 1). */
  cycles?: number;
  /** Exponent of `polynomial`. Default 1. */
  power?: number;
  /**
   * The last factor of `polynomial` (default: 1e-7 / `learningRate`, which gives transformers' last rate), and the
   * lowest of `warmup_stable_decay` (default 0), `cosine_with_min_lr` and `cosine_warmup_with_min_lr` (no default).
   */
  finalFactor?: number;
  /** Base learning rate, for `finalFactor`; the trainer fills it in. Default 1. */
  learningRate?: number;
  /** First factor of `cosine_warmup_with_min_lr`. Default 1 / `warmupSteps`. */
  warmupFactor?: number;
  /** Number of updates over which `warmup_stable_decay` falls at the end; no default. */
  decaySteps?: number;
  /** Number of updates for which `warmup_stable_decay` stays at the base rate. Default: the rest of `totalSteps`. */
  stableSteps?: number;
  /** Shape of the rise of `warmup_stable_decay`. Default `linear`. */
  warmupType?: RampType;
  /** Shape of the fall of `warmup_stable_decay`. Default `cosine`. */
  decayType?: RampType;
  /**
   * Number of updates after which the factor of `inverse_sqrt` is 1/√2. Default: `warmupSteps`, or 10,000 without a
   * warm-up.
   */
  timescale?: number;
}
const SCHEDULE_OPTIONS = {
  warmupSteps: true,
  warmupRatio: true,
  totalSteps: true,
  cycles: true,
  power: true,
  finalFactor: true,
  learningRate: true,
  warmupFactor: true,
  decaySteps: true,
  stableSteps: true,
  warmupType: true,
  decayType: true,
  timescale: true,
} satisfies OptionNames<ScheduleArgs>;

/** Shapes of the rise and the fall of `warmup_stable_decay`. */
export type RampType = 'linear' | 'cosine' | '1-sqrt';

type Resolved = Required<Pick<ScheduleArgs, 'totalSteps' | 'warmupSteps'>> & ScheduleArgs;

interface Shape {
  /** Computes the factor during the warm-up; absent in schedules without one. */
  warmUp?: (step: number, args: Resolved) => number;
  /** Computes the factor after the warm-up. */
  factor: (step: number, args: Resolved) => number;
  /** Whether the schedule depends on the length of the run. */
  needsLength: boolean | ((args: ScheduleArgs) => boolean);
  /** Settings that the schedule requires. */
  needs?: readonly (keyof ScheduleArgs)[];
}

const fromZero = (step: number, {warmupSteps}: Resolved) => step / Math.max(1, warmupSteps);

const progress = (step: number, {totalSteps, warmupSteps}: Resolved) =>
  (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);

const cosineOf = (progress: number, cycles = 0.5) => 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * progress));

const above = (factor: number, {finalFactor = 0}: Resolved) =>
  Math.max(0, factor * (1 - finalFactor) + finalFactor);

const rises: Record<RampType, (progress: number) => number> = {
  linear: (progress) => progress,
  cosine: (progress) => 0.5 * (1 - Math.cos(Math.PI * progress)),
  '1-sqrt': (progress) => 1 - Math.sqrt(1 - progress),
};

const falls: Record<RampType, (progress: number, cycles?: number) => number> = {
  linear: (progress) => 1 - progress,
  cosine: cosineOf,
  '1-sqrt': (progress) => 1 - Math.sqrt(progress),
};

/** Schedules of transformers' `get_scheduler`. */
const schedules = {
  constant: {needsLength: false, factor: () => 1},
  constant_with_warmup: {needsLength: false, warmUp: fromZero, factor: () => 1},
  linear: {
    needsLength: true,
    warmUp: fromZero,
    factor: (step, {totalSteps, warmupSteps}) =>
      Math.max(0, (totalSteps - step) / Math.max(1, totalSteps - warmupSteps)),
  },
  cosine: {
    needsLength: true,
    warmUp: fromZero,
    factor: (step, args) => Math.max(0, cosineOf(progress(step, args), args.cycles)),
  },
  cosine_with_restarts: {
    needsLength: true,
    warmUp: fromZero,
    factor: (step, args) => {
      const done = progress(step, args);
      if (done >= 1) return 0;
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((args.cycles ?? 1) * done) % 1))));
    },
  },
  polynomial: {
    needsLength: true,
    warmUp: fromZero,
    factor: (step, args) => {
      const {learningRate = 1, finalFactor = 1e-7 / learningRate, power = 1, totalSteps} = args;
      if (step > totalSteps) return finalFactor;
      return (1 - finalFactor) * (1 - progress(step, args)) ** power + finalFactor;
    },
  },
  inverse_sqrt: {
    needsLength: false,
    warmUp: fromZero,
    factor: (step, {warmupSteps, timescale = warmupSteps || 10_000}) =>
      1 / Math.sqrt((step + timescale - warmupSteps) / timescale),
  },
  cosine_with_min_lr: {
    needsLength: true,
    needs: ['finalFactor'],
    warmUp: fromZero,
    factor: (step, args) => above(cosineOf(progress(step, args), args.cycles), args),
  },
  /** Runs one step ahead of `cosine_with_min_lr`, so that the first update has an effect. */
  cosine_warmup_with_min_lr: {
    needsLength: true,
    needs: ['finalFactor'],
    warmUp: (step, {warmupSteps, warmupFactor: first}) =>
      first === undefined
        ? (step + 1) / warmupSteps
        : first + ((1 - first) * step) / Math.max(1, warmupSteps - 1),
    factor: (step, args) => above(cosineOf(progress(step + 1, args), args.cycles), args),
  },
  warmup_stable_decay: {
    needsLength: ({stableSteps}) => stableSteps === undefined,
    needs: ['decaySteps'],
    warmUp: (step, args) => above(rises[args.warmupType ?? 'linear'](fromZero(step, args)), args),
    factor: (step, args) => {
      const {
        warmupSteps,
        totalSteps,
        decaySteps = 0,
        stableSteps = totalSteps - warmupSteps - decaySteps,
      } = args;
      const done = (step - warmupSteps - stableSteps) / Math.max(1, decaySteps);
      if (done < 0) return 1;
      if (step >= warmupSteps + stableSteps + decaySteps) return args.finalFactor ?? 0;
      return above(falls[args.decayType ?? 'cosine'](done, args.cycles), args);
    },
  },
} satisfies Record<string, Shape>;

/** Names of schedules, as in transformers. */
export type ScheduleName = keyof typeof schedules;

/**
 * Makes a schedule by transformers' name (`lr_scheduler_type`). All but `constant` start with the warm-up. Beyond the
 * total, `linear`, `cosine_with_restarts`, `polynomial` and `warmup_stable_decay` stay at their end; the other cosines
 * rise again, as in transformers.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name or an impossible number, or when the length is required
 *   but unknown
 */
export function learningRateSchedule(name: ScheduleName, args: ScheduleArgs = {}): LearningRateSchedule {
  if (!Object.hasOwn(schedules, name)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}": expected one of ${Object.keys(schedules).join(', ')}.` +
        didYouMean(name, Object.keys(schedules)),
    );
  }
  assertKnownOptions(`learning rate schedule "${name}"`, args, SCHEDULE_OPTIONS);
  const {factor, needs = [], needsLength, warmUp}: Shape = schedules[name];
  const {totalSteps, warmupRatio = 0} = args;
  for (const key of needs) {
    if (args[key] !== undefined) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}" ${key}: expected a number, got none`,
    );
  }
  for (const key of ['warmupType', 'decayType'] as const) {
    const type = args[key];
    if (type === undefined || Object.hasOwn(rises, type)) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}" ${key}: expected ${Object.keys(rises).join(', ')}, got ${type}`,
    );
  }
  for (const key of ['totalSteps', 'warmupSteps', 'warmupRatio', 'decaySteps', 'stableSteps'] as const) {
    const value = args[key];
    if (value === undefined || (value >= 0 && (key !== 'warmupRatio' || value <= 1))) continue;
    const range = key === 'warmupRatio' ? 'from 0 to 1' : '≥ 0';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}" ${key}: expected a number ${range}, got ${value}`,
    );
  }
  const ratioNeedsLength = warmUp !== undefined && warmupRatio > 0 && !args.warmupSteps;
  const shapeNeedsLength = typeof needsLength === 'function' ? needsLength(args) : needsLength;
  if (totalSteps === undefined && (shapeNeedsLength || ratioNeedsLength)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}": expected totalSteps, got none. Pass it if the length of the data is not ` +
        'known, or pass maxSteps to fitDataset.',
    );
  }
  const warmupSteps = args.warmupSteps || Math.ceil(warmupRatio * (totalSteps ?? 0));
  const resolved = {...args, warmupSteps, totalSteps: totalSteps ?? Number.POSITIVE_INFINITY};
  return (step) => (warmUp && step < warmupSteps ? warmUp(step, resolved) : factor(step, resolved));
}
