import {readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batch.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import type {InitializeLoRAOptions} from '../../../models/peft/initialization/initializeLoRAOptions.ts';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf} from '../../models/tinyLlama.ts';
import {expectClose, FIXTURES, type Golden, goldenNamed, logitsOf, readGoldens} from '../golden.ts';

jest.setTimeout(60_000);

/** The folder that make_calibration.py writes to. */
const FOLDER = resolve('test/parity/calibration/fixtures');
const MODEL = join(FIXTURES, 'models/tied-gqa-llama3');
const QV: LoRAOptions = {alpha: 6, targetModules: ['q_proj', 'v_proj']};

const manifest = JSON.parse(readFileSync(join(FOLDER, 'manifest.json'), 'utf8')) as {
  batches: {input_ids: number[][]; attention_mask: number[][]; labels: number[][]}[];
};
const batches: Batch[] = manifest.batches.map(
  ({input_ids: inputIds, attention_mask: attentionMask, labels}) => ({
    inputIds,
    attentionMask,
    labels,
  }),
);
const expected = readGoldens(join(FOLDER, 'expected.safetensors'));
const [ids] = batches[0].inputIds as number[][];
const inputs = {inputIds: [ids], labels: [ids]};

const CASES: [name: string, rank: number, options: InitializeLoRAOptions][] = [
  ['corda-ipm', 4, {method: 'corda'}],
  ['corda-kpm', 4, {method: 'corda', cordaConfig: {cordaMethod: 'kpm'}}],
  ['lora-ga', 8, {method: 'lora_ga'}],
  ['lora-ga-ArBr', 8, {method: 'lora_ga', loraGAConfig: {direction: 'ArBr', scale: 'weight_svd'}}],
  ['lora-ga-A2rBr', 8, {method: 'lora_ga', loraGAConfig: {direction: 'A2rBr', scale: 'gd_scale'}}],
];

describeEachBackend('initializeLoRA with batches equals PEFT', (backend) => {
  let model: LlamaForCausalLM;
  let tensorsBefore: number;
  beforeEach(async () => {
    tensorsBefore = tf.memory().numTensors;
    model = await LlamaForCausalLM.fromPretrained(MODEL);
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  const expectLogits = async (other: LlamaForCausalLM, name: string) => {
    const logits = logitsOf(other, inputs);
    await expectClose(logits, goldenNamed(expected, name), 1e-4);
    logits.dispose();
  };

  const isCpu = backend === 'cpu';
  test.each(isCpu ? [CASES[0], CASES[2]] : CASES)(
    '%s: matrices, and what stays in the base',
    async (name, rank, options) => {
      const before = logitsOf(model, inputs);
      const reports: number[] = [];
      const onProgress = ({done}: {done: number}) => reports.push(done);
      await model.applyLoRA({...QV, rank}).initializeLoRA({...options, batches, onProgress});
      expect(reports).toEqual([1, 2, 3, 4]);
      const after = logitsOf(model, inputs);
      await expectClose(after, {values: (await before.data()) as Float32Array, shape: before.shape}, 1e-4);
      tf.dispose([before, after]);
      const initial = readGoldens(join(FOLDER, name, 'initial/adapter_model.safetensors'));
      for (const [key, layer] of model.adaptedLayers()) {
        const {loraA, loraB} = layer.adapter();
        const golden = (part: string) => goldenNamed(initial, `base_model.model.${key}.${part}.weight`);
        const [goldenA, goldenB] = [golden('lora_A'), golden('lora_B')];
        const signs = await rowSigns(loraA.read(), goldenA);
        const ofB = await columnSigns(loraB.read(), goldenB);
        const [a, b] = tf.tidy(() => [
          tf.mul(loraA.read(), tf.tensor2d(signs, [rank, 1])),
          // CorDA's A and B change signs together; LoRA-GA's are of different directions.
          tf.mul(loraB.read(), tf.tensor2d(ofB, [1, rank])),
        ]);
        await expectClose(a, goldenA, 2e-3);
        // PEFT approximates the largest singular value of the weight, by which ArBr is scaled here.
        await expectClose(b, goldenB, name === 'lora-ga-ArBr' ? 1e-2 : 2e-3);
        tf.dispose([a, b]);
        const base = `${name}:${key.replace('model.', '')}`;
        if (options.method !== 'corda' || !expected.has(base)) continue;
        await expectClose(layer.base.weight.read(), goldenNamed(expected, base), 1e-4);
      }
    },
  );

  test.each(['corda-ipm', 'corda-kpm', 'lora-ga'])(
    '%s: a trained adapter loads, converts and saves',
    async (name) => {
      const adapter = join(FOLDER, name, 'adapter');
      expect((await errorOf(() => model.loadAdapter(adapter))).message).toContain('Pass initialAdapter');
      expect(model.adapterNames).toEqual([]);
      await model.loadAdapter(adapter, {initialAdapter: join(FOLDER, name, 'initial')});
      await expectLogits(model, `${name}:logits`);
      for (const convertToLoRA of [false, true]) {
        const files = new Map<string, Blob>();
        await model.saveAdapter(files, 'default', {convertToLoRA});
        expect(files.has('adapter_initial.safetensors')).toBe(!convertToLoRA);
        const again = await LlamaForCausalLM.fromPretrained(MODEL);
        await again.loadAdapter(files);
        await expectLogits(again, `${name}:logits`);
        again.dispose();
      }
    },
  );

  // The host finds the components; the backend only runs the batches, which takes long on cpu.
  const testOffCpu = isCpu ? test.skip : test;
  testOffCpu.each<[string, string[], InitializeLoRAOptions['evaConfig']]>([
    ['eva', ['q_proj', 'v_proj', 'gate_proj'], {rho: 2, tau: 0.85}],
    [
      'eva-whiten',
      ['v_proj', 'gate_proj'],
      {whiten: true, tau: 0.9, adjustScalingFactors: false, useLabelMask: false},
    ],
  ])('%s: components, and ranks by what they explain', async (name, targetModules, evaConfig) => {
    const at = (file: string) => join(FOLDER, name, 'adapter', file);
    const before = logitsOf(model, inputs);
    model.applyLoRA({...QV, rank: 8, targetModules, seed: 4});
    await model.initializeLoRA({method: 'eva', batches, evaConfig});
    const golden = readGoldens(at('adapter_model.safetensors'));
    for (const [key, variable] of model.trainableParameters())
      await expectClose(variable, goldenNamed(golden, key), 2e-3);
    expect([...model.trainableParameters().keys()].sort()).toEqual([...golden.keys()].sort());
    const after = logitsOf(model, inputs);
    await expectClose(after, {values: (await before.data()) as Float32Array, shape: before.shape}, 1e-5);
    tf.dispose([before, after]);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const ours = JSON.parse(await files.get('adapter_config.json')!.text()) as Record<string, unknown>;
    const theirs = JSON.parse(readFileSync(at('adapter_config.json'), 'utf8')) as typeof ours;
    for (const key of ['init_lora_weights', 'eva_config', 'r', 'lora_alpha', 'rank_pattern', 'alpha_pattern'])
      expect([key, ours[key]]).toEqual([key, theirs[key]]);
    expect(new Set(ours.target_modules as string[])).toEqual(new Set(theirs.target_modules as string[]));
    const again = await LlamaForCausalLM.fromPretrained(MODEL);
    await again.loadAdapter(at(''));
    again.dispose();
  });

  testOffCpu('eva removes layers that get no rank, and works over a quantized base', async () => {
    await model.applyLoRA({...QV, rank: 1, targetModules: 'all-linear'}).quantize('nf4');
    await model.initializeLoRA({method: 'eva', batches, evaConfig: {rho: 6, tau: 0.8}});
    const ranks = [...model.adaptedLayers().values()].map((layer) => layer.adapter().settings.rank);
    expect(ranks.length).toBeLessThan(14);
    expect(ranks.reduce((sum, rank) => sum + rank, 0)).toBe(14);
    expect(Object.keys(model.adapterOptions().rankPattern!).length).toBe(
      ranks.filter((rank) => rank > 1).length,
    );
  });

  test.each<[string, LoRAOptions, InitializeLoRAOptions, string]>([
    ['no batches', QV, {method: 'eva'}, 'batches: expected at least one batch for eva, got'],
    ['batches for others', QV, {method: 'pissa', batches}, 'batches: expected none for pissa'],
    [
      'an unknown setting',
      QV,
      {method: 'eva', batches, evaConfig: {beta: 1} as object},
      'evaConfig beta: expected',
    ],
    [
      'a low rho',
      QV,
      {method: 'eva', batches, evaConfig: {rho: 0.5}},
      'evaConfig.rho: expected a number from 1',
    ],
    [
      'a direction',
      QV,
      {method: 'lora_ga', batches, loraGAConfig: {direction: 'up' as 'ArBr'}},
      'ArBr, A2rBr, ArB2r',
    ],
    [
      'a scale',
      QV,
      {method: 'lora_ga', batches, loraGAConfig: {scale: 'big' as 'unit'}},
      'stable, weight_svd',
    ],
    [
      'a mode',
      QV,
      {method: 'corda', batches, cordaConfig: {cordaMethod: 'x' as 'ipm'}},
      'expected ipm or kpm',
    ],
    ['too high a rank', {...QV, rank: 17}, {method: 'lora_ga', batches}, 'expected a rank of at most 16'],
    [
      'too few tokens',
      {...QV, rank: 30},
      {method: 'eva', batches: batches.slice(0, 1), evaConfig: {rho: 1.05}},
      'at least 32 tokens',
    ],
  ])('refuses %s', async (_, lora, options, message) => {
    model.applyLoRA(lora);
    const first = options.method === 'eva' && message.includes('tokens');
    const short = first ? {...options, batches: [shortened(batches[0])]} : options;
    expect((await errorOf(() => model.initializeLoRA(short))).message).toContain(message);
  });

  test('refuses a quantized base where it changes, and stops on a signal', async () => {
    await model.applyLoRA({...QV, rank: 2}).quantize('nf4');
    for (const method of ['corda', 'lora_ga'] as const)
      expect((await errorOf(() => model.initializeLoRA({method, batches}))).message).toContain(
        'is not quantized',
      );
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(model.initializeLoRA({method: 'eva', batches, signal})).rejects.toThrow('enough');
  });
});

const shortened = (batch: Batch): Batch => ({
  inputIds: (batch.inputIds as number[][]).map((row) => row.slice(0, 6)),
  labels: (batch.labels as number[][]).map((row) => row.slice(0, 6)),
});

/** Returns the sign of each row's product with the golden row, for vectors whose sign is arbitrary. */
async function rowSigns(matrix: tf.Tensor, {values, shape: [rows, cols]}: Golden): Promise<number[]> {
  const own = await matrix.data();
  return Array.from({length: rows}, (_, row) =>
    Math.sign(
      values
        .subarray(row * cols, (row + 1) * cols)
        .reduce((sum, value, i) => sum + value * own[row * cols + i], 0),
    ),
  );
}

/** Returns the same of each column. */
async function columnSigns(matrix: tf.Tensor, {values, shape: [rows, cols]}: Golden): Promise<number[]> {
  const own = await matrix.data();
  return Array.from({length: cols}, (_, col) =>
    Math.sign(
      Array.from({length: rows}, (_, row) => values[row * cols + col] * own[row * cols + col]).reduce(
        (a, b) => a + b,
      ),
    ),
  );
}
