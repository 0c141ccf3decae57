import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';

/** Factor on the base learning rate at an update, counted from 0. */
export type LearningRateSchedule = (step: number) => number;

export interface ScheduleArgs {
  /** Updates over which the rate rises from 0. Default `warmupRatio · totalSteps`, rounded up. */
  warmupSteps?: number;
  /** Default 0. */
  warmupRatio?: number;
  /** Updates in the whole run; the trainer fills it in when it knows. */
  totalSteps?: number;
  /** Periods of `cosine` (default 0.5) and `cosine_with_restarts` (default 1). */
  cycles?: number;
  /** Of `polynomial`. Default 1. */
  power?: number;
  /** Of `polynomial`: the last factor. Default 1e-7 over a rate of 1. */
  finalFactor?: number;
}

/** Names that transformers users know. */
export type ScheduleName = keyof typeof schedules;

type Resolved = Required<Pick<ScheduleArgs, 'totalSteps' | 'warmupSteps'>> & ScheduleArgs;

const progress = (step: number, {totalSteps, warmupSteps}: Resolved) =>
  (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);

/** The factor after warm-up, as in transformers' `get_scheduler`. */
const schedules = {
  constant: () => 1,
  constant_with_warmup: () => 1,
  linear: (step: number, args: Resolved) => Math.max(0, 1 - progress(step, args)),
  cosine: (step: number, args: Resolved) =>
    Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (args.cycles ?? 0.5) * 2 * progress(step, args)))),
  cosine_with_restarts: (step: number, args: Resolved) => {
    const done = progress(step, args);
    if (done >= 1) return 0;
    return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((args.cycles ?? 1) * done) % 1))));
  },
  polynomial: (step: number, args: Resolved) => {
    const {finalFactor = 1e-7, power = 1, totalSteps} = args;
    if (step > totalSteps) return finalFactor;
    return (1 - finalFactor) * (1 - progress(step, args)) ** power + finalFactor;
  },
  inverse_sqrt: (step: number, {warmupSteps}: Resolved) => {
    const timescale = warmupSteps || 10_000;
    return 1 / Math.sqrt((step + timescale - warmupSteps) / timescale);
  },
} satisfies Record<string, (step: number, args: Resolved) => number>;

/**
 * A schedule by transformers' name (`lr_scheduler_type`); all but `constant` rise linearly over the warm-up first.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name, or when the length must be known and is not
 */
export function learningRateSchedule(name: ScheduleName, args: ScheduleArgs = {}): LearningRateSchedule {
  const shape = schedules[name];
  if (!shape) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `learning rate schedule "${name}": expected one of ${Object.keys(schedules).join(', ')}. ` +
        `Did you mean ${nearestNames(name, Object.keys(schedules), 1)[0]}?`,
    );
  }
  const {totalSteps, warmupRatio = 0} = args;
  const needsLength = !['constant', 'constant_with_warmup', 'inverse_sqrt'].includes(name);
  if (totalSteps === undefined && (needsLength || (args.warmupSteps === undefined && warmupRatio > 0))) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `learning rate schedule "${name}": expected totalSteps, got none`);
  }
  const warmupSteps = args.warmupSteps ?? Math.ceil(warmupRatio * (totalSteps ?? 0));
  const resolved = {...args, warmupSteps, totalSteps: totalSteps ?? Number.POSITIVE_INFINITY};
  return (step) => {
    if (name !== 'constant' && step < warmupSteps) return step / Math.max(1, warmupSteps);
    return shape(step, resolved);
  };
}
