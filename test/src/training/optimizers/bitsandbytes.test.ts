import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW8bit, Lion, Lion8bit} from '../../../../src/index.ts';
import type {NamedStateOptimizer} from '../../../../src/training/optimizers/index.ts';
import {describeEachBackend} from '../../../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, toTensor} from '../../../parity/golden.ts';
import {makeOptimizer} from './everyOptimizer.ts';

const FOLDER = join(__dirname, 'fixtures');
const goldens = readGoldens(join(FOLDER, 'bitsandbytes.safetensors'));
const {names, steps, kept, learningRates, defaultBits, ...settings} = JSON.parse(
  readFileSync(join(FOLDER, 'bitsandbytes.json'), 'utf8'),
) as {
  names: string[];
  steps: number;
  kept: number[];
  learningRates: number[];
  defaultBits: Record<string, number>;
  min8bitSize: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
};

/** bitsandbytes' names of the states, by ours. */
const STATES: Record<string, string> = {
  mean: 'state1',
  'mean.codes': 'state1',
  'mean.absmax': 'absmax1',
  variance: 'state2',
  'variance.codes': 'state2',
  'variance.absmax': 'absmax2',
  momentum: 'state1',
  'momentum.codes': 'state1',
  'momentum.absmax': 'absmax1',
};

const OPTIMIZERS: Record<string, () => NamedStateOptimizer> = {
  adamW8bit: () => makeOptimizer(AdamW8bit, settings),
  lion: () => makeOptimizer(Lion, settings),
  lion8bit: () => makeOptimizer(Lion8bit, settings),
};

describeEachBackend('optimizers equal bitsandbytes', () => {
  test.each(Object.keys(OPTIMIZERS))('%s over 50 steps, to the last bit of its 8-bit state', async (run) => {
    const optimizer = OPTIMIZERS[run]();
    const variables = names.map((name) =>
      tf.tidy(() => toTensor(goldenNamed(goldens, `start/${name}`)).variable(true, name)),
    );
    const gradients = names.map((name) => toTensor(goldenNamed(goldens, `gradients/${name}`)));
    for (let step = 0; step < steps; step++) {
      optimizer.learningRate = learningRates[step];
      tf.tidy(() => {
        const now = names.map((name, i) => [name, gradients[i].slice(step, 1).squeeze([0])]);
        optimizer.applyGradients(Object.fromEntries(now));
      });
      if (!kept.includes(step + 1)) continue;
      for (const [i, name] of names.entries()) {
        await expectClose(variables[i], goldenNamed(goldens, `${run}/${step + 1}/${name}`), 1e-6);
      }
    }
    const found = new Set<string>();
    for (const {name, shape, dtype, read} of optimizer.stateEntries()) {
      const [variable, slot] = name.split('/');
      const key = `${run}/${STATES[slot]}/${variable}`;
      const values = await read();
      const expected = goldenNamed(goldens, key);
      found.add(key);
      if (dtype === 'int32') {
        const codes = new Uint8Array(values.buffer, values.byteOffset, expected.values.length);
        expect([name, Array.from(codes)]).toEqual([name, Array.from(expected.values)]);
      } else if (slot.endsWith('absmax')) {
        expect([name, Array.from(values)]).toEqual([name, Array.from(expected.values)]);
      } else {
        await expectClose(tf.tensor(values, shape), expected, 1e-6);
      }
    }
    const states = [...goldens.keys()].filter((key) => key.match(`^${run}/(state|absmax)`));
    expect([...found].sort()).toEqual(states.sort());
    optimizer.dispose();
    tf.dispose([variables, gradients]);
  });
});

test.each(Object.entries(defaultBits))('a variable of %s elements has a state of %i bits', (size, bits) => {
  const bytes = new AdamW8bit().stateBytes([Number(size)]);
  expect(bytes).toBe(bits === 32 ? 8 * Number(size) : 2 * (Number(size) + 4 * Math.ceil(Number(size) / 256)));
});
