import packageJson from '../../../package.json';
import {nodeModule} from '../backends/processor.ts';
import {orderOf} from '../checkpoints/resume.ts';
import {assertAlike} from '../cluster/assertAlike.ts';
import {ranks} from '../cluster/ranks.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';
import type {TrainableModel} from '../steps/trainableModel.ts';

/** Steps between comparisons of the trained weights; the first step is compared too. */
const STEPS = 100;

/** Ends a run on several ranks with an error on all of them when their trained weights differ. */
export function rankAgreement({model}: TrainingRun): TrainingCallback {
  return {
    onStepEnd: async ({step}) => {
      if (step !== 1 && step % STEPS !== 0) return;
      await assertAlike(ranks(), {[`trained weights after step ${step}`]: await hashOfWeights(model)});
    },
  };
}

/**
 * Checks before the first step that all ranks are about to do the same.
 *
 * @throws TfjsLoraError `RANKS_DISAGREE`
 */
export async function assertSameRun(run: TrainingRun): Promise<void> {
  if (ranks().size === 1) return;
  const {model, plan, trainer, progress, totalSteps} = run;
  const {data, ...order} = orderOf(run);
  const {optimizer} = trainer;
  const settings = Object.entries(plan).filter(([, value]) => value === null || typeof value !== 'object');
  await assertAlike(ranks(), {
    'version of tfjs-lora': packageJson.version,
    model: JSON.stringify(model.config),
    settings: JSON.stringify({...Object.fromEntries(settings), ...order, totalSteps}),
    optimizer: JSON.stringify([optimizer.getClassName(), optimizer.getConfig()]),
    data: String(data),
    'step to start at': String(progress.step),
    'trained weights': await hashOfWeights(model),
  });
}

/** Returns a hash of the bits of all trained weights. */
async function hashOfWeights(model: TrainableModel): Promise<string> {
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const hash = createHash('sha256');
  for (const [name, variable] of model.trainableParameters())
    hash.update(name).update((await variable.data()) as Float32Array);
  return hash.digest('hex').slice(0, 16);
}
