import * as tf from '@tensorflow/tfjs';
import {globalNorm} from '../../layers/ops/globalNorm.ts';
import {
  AdamW,
  type AdamWArgs,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from '../../src/index.ts';
import {clipByGlobalNorm} from '../../src/training/steps/clipByGlobalNorm.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, readJson, toTensor} from './golden.ts';

const goldens = readGoldens('ops/adamW.safetensors');
const {runs, clipping} = readJson<{
  runs: Record<string, AdamWArgs>;
  clipping: {step: number; clipped: number; untouched: number};
}>('ops/adamW.json');
const NAMES = ['matrix', 'vector'];

/** Returns the gradient of one of the ten steps. */
function gradientAt(step: number, name: string): tf.Tensor {
  return tf.tidy(() => {
    const all = toTensor(goldenNamed(goldens, `gradients/${name}`));
    return all.slice(step, 1).squeeze([0]);
  });
}

describeEachBackend('optimizers equal PyTorch', () => {
  test.each(Object.entries(runs))('AdamW, %s: every one of 10 steps', async (run, args) => {
    const optimizer = new AdamW(args);
    const variables = NAMES.map((name) => {
      const start = toTensor(goldenNamed(goldens, `start/${name}`));
      const variable = tf.variable(start, true, `parity/${run}/${name}/${tf.getBackend()}`);
      start.dispose();
      return variable;
    });
    for (let step = 0; step < 10; step++) {
      const gradients = Object.fromEntries(variables.map(({name}, i) => [name, gradientAt(step, NAMES[i])]));
      optimizer.applyGradients(gradients);
      for (const [i, variable] of variables.entries()) {
        const {shape, values} = goldenNamed(goldens, `${run}/${NAMES[i]}`);
        const size = variable.size;
        const expected = {shape: shape.slice(1), values: values.slice(step * size, (step + 1) * size)};
        await expectClose(variable, expected, 1e-6);
      }
      tf.dispose(gradients);
    }
    optimizer.dispose();
    tf.dispose(variables);
  });

  test.each(['clipped', 'untouched'] as const)('clip_grad_norm_: %s', async (which) => {
    const gradients = Object.fromEntries(NAMES.map((name) => [name, gradientAt(clipping.step, name)]));
    const norm = globalNorm(Object.values(gradients));
    const value = (await norm.data())[0];
    expect(value).toBeCloseTo(goldenNamed(goldens, `${which}/norm`).values[0], 5);
    const clipped = clipByGlobalNorm(gradients, value, clipping[which]);
    for (const name of NAMES)
      await expectClose(clipped[name], goldenNamed(goldens, `${which}/${name}`), 1e-6);
    tf.dispose([gradients, clipped, norm] as tf.TensorContainer[]);
  });
});

interface GoldenSchedule {
  name: string;
  learningRate: number;
  warmupSteps: number;
  totalSteps: number;
  options: {num_cycles?: number; power?: number; lr_end?: number};
  rates: number[];
}

describe('learning rate schedules equal transformers', () => {
  const schedules = readJson<GoldenSchedule[]>('ops/schedules.json');

  test.each(schedules)(
    '$name, warm-up of $warmupSteps',
    ({name, learningRate, options, rates, ...lengths}) => {
      const args: ScheduleArgs = {
        ...lengths,
        cycles: options.num_cycles,
        power: options.power,
        finalFactor: options.lr_end === undefined ? undefined : options.lr_end / learningRate,
      };
      const factor = learningRateSchedule(name as ScheduleName, args);
      for (const [step, rate] of rates.entries()) {
        expect(Math.abs(learningRate * factor(step) - rate)).toBeLessThan(1e-9 * learningRate);
      }
    },
  );
});
