import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type AdamWArgs, Lion, UNDECAYED_BY_TRANSFORMERS} from '../../../../src/index.ts';
import {describeEachBackend} from '../../../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, toTensor} from '../../../parity/golden.ts';

const FOLDER = join(__dirname, 'fixtures');
const goldens = readGoldens(join(FOLDER, 'loraPlus.safetensors'));
const {names, steps, settings} = JSON.parse(readFileSync(join(FOLDER, 'loraPlus.json'), 'utf8')) as {
  names: string[];
  steps: number;
  settings: AdamWArgs;
};

describeEachBackend('learning rates per variable', () => {
  test('LoRA+: B, and weights with one dimension, as in PEFT', async () => {
    const optimizer = new AdamW(settings);
    const variables = names.map((name) =>
      tf.tidy(() => toTensor(goldenNamed(goldens, `start/${name}`)).variable(true, name)),
    );
    for (let step = 0; step < steps; step++) {
      tf.tidy(() => {
        const gradients = names.map((name) => [
          name,
          toTensor(goldenNamed(goldens, `gradients/${name}`))
            .slice(step, 1)
            .squeeze([0]),
        ]);
        optimizer.applyGradients(Object.fromEntries(gradients));
      });
    }
    for (const [i, name] of names.entries()) {
      await expectClose(variables[i], goldenNamed(goldens, `end/${name}`), 1e-6);
    }
    optimizer.dispose();
    tf.dispose(variables);
  });

  test('the first pattern that fits a variable counts, before loraPlusRatio', () => {
    const optimizer = new Lion({
      learningRate: 1,
      loraPlusRatio: 4,
      learningRateFactors: [
        [/^head/, 0.5],
        ['head', 100],
        ['frozen', 0],
      ],
    });
    const moved = {'head.lora_B': 0.5, 'frozen.lora_A': 0, 'q.lora_B': 4, 'q.lora_A': 1, 'my head': 100};
    const variables = Object.keys(moved).map((name) => tf.tidy(() => tf.zeros([1, 1]).variable(true, name)));
    tf.tidy(() =>
      optimizer.applyGradients(Object.fromEntries(variables.map(({name}) => [name, tf.ones([1, 1])]))),
    );
    expect(Object.fromEntries(variables.map((variable) => [variable.name, -variable.dataSync()[0]]))).toEqual(
      {
        ...moved,
        'frozen.lora_A': -0,
      },
    );
    optimizer.dispose();
    tf.dispose(variables);
  });
});

test('biases and norms are the weights that transformers does not decay', () => {
  const isDecayed = (name: string) => !UNDECAYED_BY_TRANSFORMERS.some((pattern) => pattern.test(name));
  const decayed = ['model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight', 'lm_head.weight'];
  const undecayed = [
    'model.norm.weight',
    'model.layers.0.input_layernorm.weight',
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.0.self_attn.q_norm.weight',
  ];
  expect(decayed.map(isDecayed)).toEqual([true, true, true]);
  expect(undecayed.map(isDecayed)).toEqual([false, false, false, false]);
});
