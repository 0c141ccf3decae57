import {readdirSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../models/batchLoss.ts';
import {AdamW, Llama, type ScheduleName} from '../../src/index.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectRelative, FIXTURES, readGoldens, readJson, relativeNorm, type Tolerances} from './golden.ts';

jest.setTimeout(300_000); // takes seconds on an idle machine

interface GoldenTrajectory {
  model: string;
  initial: string;
  final: string;
  optimizer: {
    learningRate: number;
    weightDecay: number;
    beta1: number;
    beta2: number;
    epsilon: number;
    maxGradNorm: number | null;
  };
  schedule: {name: ScheduleName; warmupSteps: number; totalSteps: number};
  gradientAccumulationSteps: number;
  /** Micro-batches, used in turn and from the first again after the last. */
  microBatches: Batch[];
  losses: number[];
  gradientNorms: number[];
  learningRates: number[];
  tolerances: Tolerances;
}

describeEachBackend('training equals torch.optim.AdamW', (backend) => {
  // All steps take `cpu` a minute. After seven, all-linear's rate has risen and falls again, and a wrong gradient or
  // update has changed the losses.
  const stepCount = backend === 'cpu' ? 7 : 30;

  test.each(readdirSync(join(FIXTURES, 'training')))(`%s: ${stepCount} steps`, async (name) => {
    const golden = readJson<GoldenTrajectory>(`training/${name}/manifest.json`);
    const {maxGradNorm, ...optimizer} = golden.optimizer;
    const {microBatches, gradientAccumulationSteps: accumulation, tolerances} = golden;
    expect(golden.losses).toHaveLength(30);
    const losses = golden.losses.slice(0, stepCount);
    const tensorsBefore = tf.memory().numTensors;
    const model = await Llama.fromPretrained(join(FIXTURES, golden.model));
    await model.loadAdapter(join(FIXTURES, 'training', name, golden.initial), {trainable: true});
    const adamW = new AdamW(optimizer);
    model.compile({optimizer: adamW, schedule: golden.schedule, maxGradNorm: maxGradNorm ?? undefined});

    let tensorsAfterFirstStep = 0;
    for (const [step, loss] of losses.entries()) {
      const window = Array.from(
        {length: accumulation},
        (_, i) => microBatches[(step * accumulation + i) % microBatches.length],
      );
      const result = await model.trainOnBatch(window);
      expectRelative(result.loss, loss, tolerances.trajectoryLoss);
      // One window's gradient is ill-conditioned: weights 1e-6 apart differ there by 3e-4 in its norm.
      expectRelative(result.gradNorm, golden.gradientNorms[step], 5e-3);
      expect(result.learningRate).toBeCloseTo(golden.learningRates[step], 12);
      if (step === 0) tensorsAfterFirstStep = tf.memory().numTensors;
    }
    expect(tf.memory().numTensors).toBe(tensorsAfterFirstStep);

    const final = readGoldens(join(FIXTURES, 'training', name, golden.final, 'adapter_model.safetensors'));
    const trained = model.trainableParameters();
    expect([...trained.keys()].sort()).toEqual([...final.keys()].sort());
    for (const [key, {values}] of final) {
      if (stepCount === 30)
        expect(relativeNorm(await trained.get(key)!.data(), values)).toBeLessThan(tolerances.gradient);
    }
    adamW.dispose();
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  (backend === 'cpu' ? test.skip : test)('fitDataset gives the same trajectory', async () => {
    const golden = readJson<GoldenTrajectory>('training/all-linear/manifest.json');
    const {maxGradNorm, ...optimizer} = golden.optimizer;
    const model = await Llama.fromPretrained(join(FIXTURES, golden.model));
    await model.loadAdapter(join(FIXTURES, 'training/all-linear', golden.initial), {trainable: true});
    const {warmupSteps, name} = golden.schedule;
    const adamW = new AdamW(optimizer);
    model.compile({optimizer: adamW, schedule: {name, warmupSteps}, maxGradNorm: maxGradNorm ?? undefined});
    const {steps} = await model.fitDataset(golden.microBatches, {
      epochs: 10,
      gradientAccumulationSteps: golden.gradientAccumulationSteps,
      shuffle: false,
      verbose: 0,
    });
    expect(steps).toHaveLength(golden.losses.length);
    for (const [i, {loss, learningRate}] of steps.entries()) {
      expectRelative(loss, golden.losses[i], golden.tolerances.trajectoryLoss);
      expect(learningRate).toBeCloseTo(golden.learningRates[i], 12);
    }
    adamW.dispose();
    model.dispose();
  });
});
