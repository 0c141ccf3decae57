import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {grpoLoss} from '../../../src/index.ts';
import {groupAdvantages, type RewardScale} from '../../../src/training/losses/groupAdvantages.ts';
import type {GroupBatch, GrpoLossArgs} from '../../../src/training/losses/grpoLoss.ts';
import type {LossModel} from '../../../src/training/losses/trainingLoss.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectRelative} from '../golden.ts';

type Metrics = Record<string, number>;

/** A case of make_grpo.py with what TRL computed. */
interface LossCase {
  case: {
    loss_type: GrpoLossArgs['type'];
    level?: 'token' | 'sequence';
    epsilon?: number;
    epsilon_high?: number;
    beta?: number;
    delta?: number;
    old?: boolean;
    masked?: number[];
  };
  loss: number;
  gradient: number[][];
  metrics: Metrics;
}

interface Fixture {
  inputs: {
    lengths: number[];
    policy: number[][];
    old: number[][];
    reference: number[][];
    advantages: number[];
    maxNewTokens: number;
  };
  losses: Record<string, LossCase>;
  rewards: (number | null)[][];
  advantages: Record<
    string,
    {
      case: {scale: RewardScale; weights?: number[]; generations?: number};
      advantages: number[];
      metrics: Metrics;
    }
  >;
}

const fixture = JSON.parse(readFileSync(join(__dirname, 'fixtures/grpo.json'), 'utf8')) as Fixture;
const {inputs} = fixture;

/** Returns the tokens that answers have, in order. */
const ofAnswers = (rows: number[][]) => rows.flatMap((row, i) => row.slice(0, inputs.lengths[i]));

const minus = (rows: number[][]) => Float32Array.from(ofAnswers(rows), (value) => -value);

describeEachBackend('grpoLoss equals TRL', () => {
  test.each(Object.entries(fixture.losses))('%s: loss, gradient and metrics', async (_, golden) => {
    const {loss_type, level, epsilon, epsilon_high, beta, delta, old, masked = []} = golden.case;
    const objective = grpoLoss({
      rewards: () => [],
      type: loss_type,
      importanceSampling: level,
      epsilon,
      epsilonHigh: epsilon_high,
      beta,
      delta,
      maxNewTokens: inputs.maxNewTokens,
    });
    const policy = tf.tensor1d(ofAnswers(inputs.policy));
    const {lengths} = inputs;
    const batch: GroupBatch = {
      inputIds: lengths.map(() => [0]),
      labels: lengths.map((length) => new Array<number>(length).fill(1)),
      group: {
        advantages: inputs.advantages,
        isMasked: lengths.map((_, row) => masked.includes(row)),
        ...(old !== false && {old: minus(inputs.old)}),
        ...(beta && {reference: minus(inputs.reference)}),
        metrics: [],
      },
    };
    const before = tf.memory().numTensors;
    let metrics: tf.Tensor1D | undefined;
    const compute = (logps: tf.Tensor) => {
      const tokenLosses = () => ({losses: tf.neg(logps) as tf.Tensor1D, counts: lengths});
      const model = {tokenLosses} as unknown as LossModel;
      const computed = objective.compute(model, batch, {});
      metrics = tf.keep(computed.metrics!);
      return computed.loss;
    };
    const {value, grad} = tf.valueAndGrad(compute)(policy);
    const count = objective.count({} as LossModel, batch);
    const [sum] = await value.data();
    expectRelative(sum / count, golden.loss, 1e-5);
    const gradient = await grad.data();
    for (const [i, expected] of ofAnswers(golden.gradient).entries())
      expect(gradient[i] / count).toBeCloseTo(expected, 6);
    const names = objective.metrics.slice(objective.metrics.length - metrics!.size);
    const values = await metrics!.data();
    for (const [i, name] of names.entries())
      expect([name, values[i]]).toEqual([name, expect.closeTo(golden.metrics[name], 6)]);
    tf.dispose([value, grad, metrics!]);
    expect(tf.memory().numTensors).toBe(before);
    policy.dispose();
  });
});

test.each(Object.entries(fixture.advantages))('advantages by %s equal TRL', (_, golden) => {
  const {scale, weights = [1, 1], generations = 3} = golden.case;
  const ours = groupAdvantages(fixture.rewards, weights, generations, scale);
  for (const [i, advantage] of golden.advantages.entries())
    expect(ours.advantages[i]).toBeCloseTo(advantage, 5);
  expectRelative(ours.reward, golden.metrics.reward, 1e-6);
  expectRelative(ours.rewardStd, golden.metrics.reward_std, 1e-6);
  expect(ours.withoutStd).toBeCloseTo(golden.metrics.frac_reward_zero_std, 6);
});
