import type {ScheduleArgs, ScheduleName} from '../../training/steps/learningRateSchedule.ts';
import type {RecipeKeys} from './recipeKeys.ts';

type Settings = NonNullable<RecipeKeys['lr_scheduler_kwargs']>;

/** The settings that each of transformers' schedules accepts. */
const SETTINGS: Record<ScheduleName, readonly (keyof Settings)[]> = {
  constant: [],
  constant_with_warmup: [],
  linear: [],
  cosine: ['num_cycles'],
  cosine_with_restarts: ['num_cycles'],
  polynomial: ['power', 'lr_end'],
  inverse_sqrt: ['timescale'],
  cosine_with_min_lr: ['num_cycles', 'min_lr', 'min_lr_rate'],
  cosine_warmup_with_min_lr: ['num_cycles', 'min_lr', 'min_lr_rate', 'warmup_lr_rate'],
  warmup_stable_decay: [
    'num_decay_steps',
    'num_stable_steps',
    'warmup_type',
    'decay_type',
    'min_lr_ratio',
    'num_cycles',
  ],
};

/** Converts a recipe's `lr_scheduler_type` and `lr_scheduler_kwargs` to the trainer's arguments. */
export function scheduleOf(
  name: ScheduleName,
  settings: Settings = {},
  learningRate: number,
): {name: ScheduleName} & ScheduleArgs {
  const lowestRate = settings.min_lr ?? settings.lr_end;
  const finalFactor =
    lowestRate === undefined
      ? (settings.min_lr_rate ?? settings.min_lr_ratio)
      : lowestRate / (learningRate || 1); // a rate of 0 stays 0 under every factor
  const args: ScheduleArgs = {
    cycles: settings.num_cycles,
    power: settings.power,
    finalFactor,
    warmupFactor: settings.warmup_lr_rate,
    decaySteps: settings.num_decay_steps,
    stableSteps: settings.num_stable_steps,
    warmupType: settings.warmup_type,
    decayType: settings.decay_type,
    timescale: settings.timescale,
  };
  const given = Object.entries(args).filter(([, value]) => value !== undefined);
  return {name, ...Object.fromEntries(given)};
}

/** Describes what is wrong with a schedule's settings, or returns undefined if nothing is. */
export function scheduleFault(name: ScheduleName, settings: Settings = {}): string | undefined {
  const taken = SETTINGS[name];
  const foreign = Object.keys(settings).filter((key) => !taken.includes(key as keyof Settings));
  if (foreign.length > 0) {
    const expected = taken.length > 0 ? `only ${taken.join(', ')}` : 'none';
    return `expected ${expected} with lr_scheduler_type: ${name}, got ${foreign.join(', ')}`;
  }
  const {min_lr, min_lr_rate, num_decay_steps} = settings;
  if (taken.includes('min_lr') && (min_lr === undefined) === (min_lr_rate === undefined)) {
    const got = min_lr === undefined ? 'neither' : 'both';
    return `expected one of min_lr and min_lr_rate with lr_scheduler_type: ${name}, got ${got}`;
  }
  if (name === 'warmup_stable_decay' && num_decay_steps === undefined)
    return `expected num_decay_steps with lr_scheduler_type: ${name}, got none`;
  return undefined;
}
