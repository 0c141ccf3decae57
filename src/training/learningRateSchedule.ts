import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';

/** Factor on the base learning rate at an update, counted from 0. */
export type LearningRateSchedule = (step: number) => number;

export interface ScheduleArgs {
  /** Updates over which the rate rises from 0. Default, and for 0: `warmupRatio · totalSteps`, rounded up. */
  warmupSteps?: number;
  /** Share of `totalSteps`, 0 … 1. Default 0. */
  warmupRatio?: number;
  /** Updates in the whole run; the trainer fills it in when it knows. */
  totalSteps?: number;
  /** Periods of `cosine` (default 0.5) and `cosine_with_restarts` (default 1). */
  cycles?: number;
  /** Of `polynomial`. Default 1. */
  power?: number;
  /** Of `polynomial`: the last factor. Default that of transformers' last rate, 1e-7 / `learningRate`. */
  finalFactor?: number;
  /** The base rate, for `finalFactor`; the trainer fills it in. Default 1. */
  learningRate?: number;
}

type Resolved = Required<Pick<ScheduleArgs, 'totalSteps' | 'warmupSteps'>> & ScheduleArgs;

interface Shape {
  /** Factor after the warm-up. */
  factor: (step: number, args: Resolved) => number;
  /** Whether it depends on the length of the run. */
  needsLength: boolean;
  /** Whether it rises from 0 first. */
  warmsUp: boolean;
}

const progress = (step: number, {totalSteps, warmupSteps}: Resolved) =>
  (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);

/** As in transformers' `get_scheduler`. */
const schedules = {
  constant: {needsLength: false, warmsUp: false, factor: () => 1},
  constant_with_warmup: {needsLength: false, warmsUp: true, factor: () => 1},
  linear: {
    needsLength: true,
    warmsUp: true,
    factor: (step, {totalSteps, warmupSteps}) =>
      Math.max(0, (totalSteps - step) / Math.max(1, totalSteps - warmupSteps)),
  },
  cosine: {
    needsLength: true,
    warmsUp: true,
    factor: (step, args) =>
      Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (args.cycles ?? 0.5) * 2 * progress(step, args)))),
  },
  cosine_with_restarts: {
    needsLength: true,
    warmsUp: true,
    factor: (step, args) => {
      const done = progress(step, args);
      if (done >= 1) return 0;
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((args.cycles ?? 1) * done) % 1))));
    },
  },
  polynomial: {
    needsLength: true,
    warmsUp: true,
    factor: (step, args) => {
      const {learningRate = 1, finalFactor = 1e-7 / learningRate, power = 1, totalSteps} = args;
      if (step > totalSteps) return finalFactor;
      return (1 - finalFactor) * (1 - progress(step, args)) ** power + finalFactor;
    },
  },
  inverse_sqrt: {
    needsLength: false,
    warmsUp: true,
    factor: (step, {warmupSteps}) => {
      const timescale = warmupSteps || 10_000;
      return 1 / Math.sqrt((step + timescale - warmupSteps) / timescale);
    },
  },
} satisfies Record<string, Shape>;

/** Names that transformers users know. */
export type ScheduleName = keyof typeof schedules;

/**
 * A schedule by transformers' name (`lr_scheduler_type`); all but `constant` rise linearly over the warm-up first.
 * Past the total, `linear`, `cosine_with_restarts` and `polynomial` stay at their end; `cosine` rises again, as there.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name or an impossible number, or when the length must be known
 *   and is not
 */
export function learningRateSchedule(name: ScheduleName, args: ScheduleArgs = {}): LearningRateSchedule {
  if (!Object.hasOwn(schedules, name)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}": expected one of ${Object.keys(schedules).join(', ')}. ` +
        `Did you mean ${nearestNames(String(name), Object.keys(schedules), 1)[0]}?`,
    );
  }
  const {factor, needsLength, warmsUp}: Shape = schedules[name];
  const {totalSteps, warmupRatio = 0} = args;
  for (const key of ['totalSteps', 'warmupSteps', 'warmupRatio'] as const) {
    const value = args[key];
    if (value === undefined || (value >= 0 && (key !== 'warmupRatio' || value <= 1))) continue;
    const range = key === 'warmupRatio' ? 'from 0 to 1' : '≥ 0';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}" ${key}: expected a number ${range}, got ${value}`,
    );
  }
  const ratioNeedsLength = warmsUp && warmupRatio > 0 && !args.warmupSteps;
  if (totalSteps === undefined && (needsLength || ratioNeedsLength)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}": expected totalSteps, got none. Pass it where the length of the data is not ` +
        'known beforehand, or maxSteps to fitDataset.',
    );
  }
  const warmupSteps = args.warmupSteps || Math.ceil(warmupRatio * (totalSteps ?? 0));
  const resolved = {...args, warmupSteps, totalSteps: totalSteps ?? Number.POSITIVE_INFINITY};
  return (step) => (warmsUp && step < warmupSteps ? step / Math.max(1, warmupSteps) : factor(step, resolved));
}
