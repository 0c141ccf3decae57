import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {
  Adafactor,
  AdEMAMix,
  Muon,
  type NamedStateOptimizer,
  optimizerByName,
  PagedAdEMAMix,
} from '../../../../src/training/optimizers/index.ts';
import {describeEachBackend} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';

type Weights = Record<string, number[] | number[][]>;
const {
  rates,
  start,
  gradients,
  cases,
}: {
  rates: number[];
  start: Weights;
  gradients: Record<string, (number[] | number[][])[]>;
  cases: {name: 'Adafactor' | 'AdEMAMix' | 'Muon'; settings: object; kept: Record<string, Weights>}[];
} = JSON.parse(readFileSync(join(__dirname, 'fixtures/optimizers.json'), 'utf8'));
const CLASSES = {Adafactor, AdEMAMix, Muon};

let variables: tf.Variable[] = [];
const begin = () => {
  variables = Object.entries(start).map(([name, values]) =>
    tf.tidy(() => tf.tensor(values).variable(true, name)),
  );
};
const end = () => tf.dispose(variables);

function step(optimizer: NamedStateOptimizer, index: number): void {
  optimizer.learningRate = rates[index];
  tf.tidy(() => {
    const named = Object.entries(gradients).map(([name, all]) => [name, tf.tensor(all[index])]);
    optimizer.applyGradients(Object.fromEntries(named));
  });
}

describeEachBackend('optimizers without kernels', () => {
  afterEach(end);

  test.each(cases)('$name equals the peer’s over 12 steps', async ({name, settings, kept}) => {
    const optimizer = new CLASSES[name](settings);
    begin();
    for (const index of rates.keys()) {
      step(optimizer, index);
      const expected = kept[index + 1];
      if (!expected) continue;
      for (const variable of variables)
        expectClose(await variable.data(), expected[variable.name].flat(), {relative: 1e-5});
    }
    optimizer.dispose();
  });
});

describe('saving and settings', () => {
  beforeAll(() => tf.setBackend('cpu'));
  afterEach(end);

  test.each(cases)('$name continues from its saved state and config', async ({name, settings, kept}) => {
    const first = new CLASSES[name](settings);
    begin();
    for (let index = 0; index < 5; index++) step(first, index);
    const Class = CLASSES[name];
    const second = Class.fromConfig(Class as never, first.getConfig()) as unknown as NamedStateOptimizer;
    expect(second.getConfig()).toEqual(first.getConfig());
    const weights = await first.getWeights();
    await second.setWeights(weights);
    weights[0].tensor.dispose();
    first.dispose();
    for (let index = 5; index < rates.length; index++) step(second, index);
    for (const variable of variables)
      expectClose(await variable.data(), kept[rates.length][variable.name].flat(), {relative: 1e-5});
    second.dispose();
  });

  test('PagedAdEMAMix equals AdEMAMix, bit for bit', async () => {
    const run = async (optimizer: NamedStateOptimizer) => {
      begin();
      for (const index of rates.keys()) step(optimizer, index);
      const values = await Promise.all(variables.map((variable) => variable.data()));
      optimizer.dispose();
      end();
      return values;
    };
    expect(await run(new PagedAdEMAMix())).toEqual(await run(new AdEMAMix()));
  });

  test('state is as small as documented', () => {
    expect(new Adafactor().stateBytes([100, 30])).toBe(4 * 130);
    expect(new AdEMAMix().stateBytes([100, 30])).toBe(4 * 9000);
    expect(new Muon().stateBytes([100, 30])).toBe(4 * 3000);
  });

  test.each([
    [() => new Adafactor({decayRate: 1}), 'Adafactor decayRate: expected a number below 0, got 1'],
    [() => new Adafactor({beta1: 0.9} as object), 'Adafactor beta1: expected some of'],
    [() => new AdEMAMix({beta3: 1}), 'AdEMAMix beta3: expected 0 ≤ β < 1, got 1'],
    [() => new Muon({momentum: 1}), 'Muon momentum: expected a number from 0 and below 1, got 1'],
  ])('a wrong setting is refused: %#', (make, message) => {
    expect(make).toThrow(message);
  });

  test.each([
    ['adafactor', 'Adafactor', {weightDecay: 0}],
    ['ademamix', 'AdEMAMix', {beta2: 0.999, beta3: 0.9999, alpha: 5, weightDecay: 0}],
    ['paged_ademamix_32bit', 'PagedAdEMAMix', {beta2: 0.999}],
    ['muon', 'Muon', {momentum: 0.95}],
  ])('%s is made by its name', (name, className, settings) => {
    const optimizer = optimizerByName(name);
    expect(optimizer.getClassName()).toBe(className);
    expect(optimizer.getConfig()).toMatchObject(settings);
    optimizer.dispose();
  });
});
