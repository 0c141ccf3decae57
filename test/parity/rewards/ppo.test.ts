import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {ppoLoss} from '../../../src/index.ts';
import {ppoAdvantages} from '../../../src/training/losses/ppoAdvantages.ts';
import type {PpoBatch} from '../../../src/training/losses/ppoLoss.ts';
import {
  adaptedCoefficient,
  NO_SCORES,
  normalizedScores,
  withScores,
} from '../../../src/training/losses/ppoState.ts';
import type {LossModel} from '../../../src/training/losses/trainingLoss.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectRelative} from '../golden.ts';

type Rows = number[][];

interface Step {
  batches: {
    loss: number;
    gradients: [policy: Rows, predicted: Rows];
    advantages: Rows;
    returns: Rows;
    stats: Record<string, number>;
  }[];
  kl: number;
  non_score_reward: number;
  kl_coefficient: number;
}

interface Fixture {
  queries: number[];
  responses: number[];
  batchSize: number;
  inputs: {old: Rows; reference: Rows; values: Rows; policy: Rows; predicted: Rows; scores: number[]}[];
  cases: Record<
    string,
    {
      case: {whiten_rewards?: boolean; use_score_norm?: boolean; target?: number; gamma?: number};
      steps: Step[];
    }
  >;
}

const fixture = JSON.parse(readFileSync(join(__dirname, 'fixtures/ppo.json'), 'utf8')) as Fixture;
const {queries, responses, batchSize} = fixture;

/** Returns the numbers of an answer's tokens. */
const ofAnswer = (rows: Rows, row: number, index = row) =>
  rows[index].slice(queries[row] - 1, queries[row] - 1 + responses[row]);

const minus = (numbers: number[]) => numbers.map((number) => -number);

const longest = Math.max(...queries.map((query, row) => query + responses[row]));

describeEachBackend('ppoLoss equals LLaMA-Factory', () => {
  test.each(Object.entries(fixture.cases))(
    '%s: every number of two steps',
    async (_, {case: given, steps}) => {
      const {target = 6, whiten_rewards: whitenRewards = false, gamma = 1} = given;
      const objective = ppoLoss({rewards: () => [], target, whitenRewards, gamma});
      let [coefficient, moments] = [0.2, NO_SCORES];
      for (const [s, golden] of steps.entries()) {
        const inputs = fixture.inputs[s];
        moments = withScores(moments, inputs.scores);
        const scores = given.use_score_norm ? normalizedScores(moments, inputs.scores) : inputs.scores;
        const rated = queries.map((query, row) => ({
          old: minus(ofAnswer(inputs.old, row)),
          reference: minus(ofAnswer(inputs.reference, row)),
          values: ofAnswer(inputs.values, row),
          score: scores[row],
          padding: longest - query - responses[row],
        }));
        const settings = {gamma, lambda: 0.95, whitenRewards};
        const {advantages, returns, kl, nonScoreReward} = ppoAdvantages(rated, coefficient, settings);
        expectRelative(kl, golden.kl, 1e-5);
        expectRelative(nonScoreReward, golden.non_score_reward, 1e-5);
        coefficient = adaptedCoefficient(coefficient, kl, queries.length, {target, horizon: 10_000});
        expectRelative(coefficient, golden.kl_coefficient, 1e-7);
        for (const [b, batch] of golden.batches.entries()) {
          const rows = Array.from({length: batchSize}, (_, i) => b * batchSize + i);
          const take = (of: Rows) => rows.flatMap((row) => ofAnswer(of, row));
          const theirs = (of: Rows) => rows.flatMap((row, i) => ofAnswer(of, row, i));
          const ppo = {
            old: rows.flatMap((row) => rated[row].old),
            values: take(inputs.values),
            advantages: rows.flatMap((row) => advantages[row]),
            returns: rows.flatMap((row) => returns[row]),
            metrics: [],
          };
          expectClose(ppo.advantages, theirs(batch.advantages));
          expectClose(ppo.returns, theirs(batch.returns));
          const ours = await lossOf(
            {inputIds: [], labels: [], ppo},
            take(inputs.policy),
            take(inputs.predicted),
          );
          expectRelative(ours.loss, batch.loss, 1e-5);
          for (const [i, gradient] of ours.gradients.entries())
            expectClose(gradient, theirs(batch.gradients[i]));
          const names = objective.metrics.slice(-5).map((name) => name.slice('ppo/'.length));
          expectClose(
            ours.metrics,
            names.map((name) => batch.stats[name]),
          );
        }
      }

      async function lossOf(batch: PpoBatch, policy: number[], predicted: number[]) {
        const before = tf.memory().numTensors;
        const inputs = [tf.tensor1d(policy), tf.tensor1d(predicted)];
        const count = objective.count({} as LossModel, batch);
        let metrics: tf.Tensor | undefined;
        const {value, grads} = tf.valueAndGrads((logps, values) => {
          const tokenLosses = () => ({losses: tf.neg(logps), values, counts: []});
          const computed = objective.compute({tokenLosses} as unknown as LossModel, batch, {});
          metrics = tf.keep(computed.metrics!);
          return computed.loss;
        })(inputs);
        const read = async (tensor: tf.Tensor) => [...(await tensor.data())];
        const [[loss], described, ...gradients] = await Promise.all([value, metrics!, ...grads].map(read));
        tf.dispose([inputs, value, grads, metrics!]);
        expect(tf.memory().numTensors).toBe(before);
        const means = gradients.map((gradient) => gradient.map((slope) => slope / count));
        return {loss: loss / count, metrics: described, gradients: means};
      }
    },
  );
});

function expectClose(actual: number[], expected: number[]): void {
  expect(actual).toEqual(expected.map((value) => expect.closeTo(value, 5)));
}
