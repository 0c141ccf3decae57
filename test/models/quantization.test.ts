import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../layers/loraDense.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {SafetensorsFolder} from '../../quant/folders/safetensorsFolder.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {Llama} from '../../src/training/llama.ts';
import {estimateMemory} from '../../src/training/run/estimateMemory.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyConfig, tinyIds, tinyLlama} from './tinyLlama.ts';

const NF4 = {type: 'nf4', doubleQuant: true} as const;

/** Names of the layers that are quantized. */
function quantizedNames(model: LlamaForCausalLM): string[] {
  const names = [...model.namedParameters()].filter(([, {storage}]) => storage === 'quantized');
  return names.map(([name]) => name.replace('.weight', ''));
}

describeEachBackend('a model with quantized layers', () => {
  let model: LlamaForCausalLM;
  let before: number;
  beforeEach(() => {
    before = tf.memory().numTensors;
    model = tinyLlama();
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('quantize quantizes every linear layer except the head, in place', async () => {
    const bytes = model.byteLength;
    const count = model.countParams();
    expect(await model.quantize(NF4)).toBe(model);
    expect(quantizedNames(model)).toHaveLength(14);
    expect(quantizedNames(model)).not.toContain('lm_head');
    expect(model.getLayer('model.layers.0.mlp.up_proj')).toBeInstanceOf(QuantizedDense);
    expect(model.countParams()).toBe(count);
    expect(model.byteLength).toBeLessThan(bytes);
    await model.quantize(NF4); // quantized layers do not change
    expect(quantizedNames(model)).toHaveLength(14);
    const lines: string[] = [];
    model.summary(100, undefined, (line) => lines.push(line));
    expect(lines.join('\n')).toContain('model.layers.0.mlp.up_proj (QuantizedDense)');
  });

  test.each([
    [['lm_head', 'mlp'], 14],
    [['down_proj', String.raw`model\.layers\.[01]\.mlp\.(gate|up)_proj`], 8],
    [['model.layers.1'], 7],
    [['q_proj', 'model.layers.0.self_attn.k_proj'], 11],
    [['proj'], 0],
  ])('skipModules %j leaves those layers', async (skipModules, expected) => {
    await model.quantize({...NF4, skipModules});
    expect(quantizedNames(model)).toHaveLength(expected);
  });

  test('quantizes an untied head only on request', async () => {
    const untied = tinyLlama({tieWordEmbeddings: false});
    await untied.quantize(NF4);
    expect(quantizedNames(untied)).not.toContain('lm_head');
    const logits = logitsOf(untied);
    await untied.quantize({...NF4, skipModules: []});
    expect(quantizedNames(untied)).toContain('lm_head');
    expect(untied.lm_head).toBeInstanceOf(QuantizedDense);
    expect(logitsOf(untied)).not.toEqual(logits);
    untied.dispose();
  });

  test('declares the layers of a model without memory, in the size that they would have', async () => {
    const size = {hiddenSize: 64, intermediateSize: 64, headDim: 16};
    const [planned, real] = [false, true].map((allocate) => tinyLlama(size, {dtype: 'bfloat16', allocate}));
    for (const model of [planned, real]) {
      model.applyLoRA({rank: 2});
      await model.quantize({type: 'nf4'});
    }
    expect([planned.byteLength, real.byteLength > 0]).toEqual([0, true]);
    const shape = {batchSize: 2, sequenceLength: 8};
    expect(estimateMemory(planned, shape)).toEqual(estimateMemory(real, shape));
    for (const model of [planned, real]) model.dispose();
  });

  test('dequantize makes plain layers with the same outputs', async () => {
    await model.quantize(NF4);
    const logits = logitsOf(model);
    expect(model.dequantize()).toBe(model);
    expect(quantizedNames(model)).toEqual([]);
    expectClose(logitsOf(model), logits, {relative: 1e-5});
  });

  test('turns LoRA into QLoRA, with the same result before or after quantizing', async () => {
    model.applyLoRA({rank: 2, seed: 3});
    stirAdapter(model);
    await model.quantize(NF4);
    const after = tinyLlama();
    await after.quantize(NF4);
    after.applyLoRA({rank: 2, seed: 3});
    stirAdapter(after);
    expect(logitsOf(after)).toEqual(logitsOf(model));
    expect([...model.adaptedLayers().values()].every(({base}) => base instanceof QuantizedDense)).toBe(true);
    expect(model.trainableWeights).toHaveLength(28);
    model.withoutAdapter(() => expect(logitsOf(model)).not.toEqual(logitsOf(after)));
    after.dispose();
  });

  test('refuses merging, or dequantizes on request, undoes it bit for bit, and fuses', async () => {
    await model.quantize(NF4);
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'up_proj']});
    stirAdapter(model);
    const logits = logitsOf(model);
    expect(await errorOf(() => model.mergeLoRA())).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('got nf4. Rounding the sum to few bits would lose the update'),
    });
    expect(logitsOf(model)).toEqual(logits);
    model.mergeLoRA({dequantize: true});
    expectClose(logitsOf(model), logits, {relative: 1e-5});
    expect(quantizedNames(model)).toHaveLength(10);
    expect(await errorOf(() => model.quantize(NF4))).toMatchObject({code: 'INVALID_ARGUMENT'});
    model.withoutAdapter(() => logitsOf(model)); // merged again afterwards
    expect(quantizedNames(model)).toHaveLength(10);
    model.unmergeLoRA();
    expect(logitsOf(model)).toEqual(logits);
    model.fuseLoRA({dequantize: true});
    expect(model.adapterNames).toEqual([]);
    expect(model.getLayer('model.layers.0.mlp.up_proj')).not.toBeInstanceOf(LoRADense);
    expectClose(logitsOf(model), logits, {relative: 1e-5});
    await model.quantize(NF4); // LoRA, merged, quantized again: a second round
    expect(quantizedNames(model)).toHaveLength(14);
  });

  test.each([
    ['nf4', {type: 'nf4', doubleQuant: true, computeDtype: 'bfloat16'}],
    ['fp4', {type: 'fp4'}],
    ['int8', {type: 'int8'}],
  ] as const)('%s is saved with its config and loaded as it was', async (type, quantization) => {
    await model.quantize({...quantization, skipModules: ['lm_head', 'down_proj']});
    const logits = logitsOf(model);
    await inFolder(async (folder) => {
      await model.save(folder);
      const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
      expect(config.quantization_config).toMatchObject({
        quant_method: 'bitsandbytes',
        load_in_4bit: type !== 'int8',
        load_in_8bit: type === 'int8',
        bnb_4bit_use_double_quant: type === 'nf4',
        bnb_4bit_compute_dtype: type === 'nf4' ? 'bfloat16' : 'float32',
        llm_int8_skip_modules: expect.arrayContaining(['lm_head', 'model.layers.0.mlp.down_proj']),
      });
      const again = await LlamaForCausalLM.fromPretrained(folder);
      expect(logitsOf(again)).toEqual(logits);
      expect(quantizedNames(again)).toEqual(quantizedNames(model));
      again.dispose();

      await model.save(folder, {dequantize: true});
      expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).not.toHaveProperty(
        'quantization_config',
      );
      const stored = SafetensorsFolder.open(folder);
      expect(stored.info('model.layers.0.mlp.up_proj.weight').dtype).toBe('F32');
      stored.close();
      const plain = await LlamaForCausalLM.fromPretrained(folder);
      expectClose(logitsOf(plain), logits, {relative: 1e-5});
      plain.dispose();
    });
  });

  test('quantizes on loading as quantize does, tensor by tensor', async () => {
    await inFolder(async (folder) => {
      await model.save(folder, {dtype: 'bfloat16'});
      const loaded = await LlamaForCausalLM.fromPretrained(folder, {quantization: NF4});
      const plain = await LlamaForCausalLM.fromPretrained(folder);
      await plain.quantize(NF4);
      expect(logitsOf(loaded)).toEqual(logitsOf(plain));
      expect(loaded.storage).toBe('bfloat16');
      plain.dispose();
      loaded.dispose();
    });
  });

  test.each([NF4, {type: 'int8'}])(
    'the files decide what is quantized, whatever the list of the config: %j',
    async (quantization) => {
      await model.quantize({
        ...quantization,
        skipModules: ['lm_head', 'down_proj', 'model.layers.1.self_attn'],
      });
      const logits = logitsOf(model);
      const names = quantizedNames(model);
      expect(names).toHaveLength(8);
      await inFolder(async (folder) => {
        await model.save(folder);
        const path = join(folder, 'config.json');
        const config = JSON.parse(await readFile(path, 'utf8'));
        const lists = [
          [String.raw`model\.layers\.[0-3]\.mlp`],
          ['model.layers.*.mlp.down_proj'],
          ['n_proj'],
          ['mlp'],
          ['*.down_proj'], // not a valid expression
          ['proj'],
          [],
          null,
        ];
        for (const llm_int8_skip_modules of lists) {
          const quantization_config = {...config.quantization_config, llm_int8_skip_modules};
          await writeFile(path, JSON.stringify({...config, quantization_config}));
          const loaded = await LlamaForCausalLM.fromPretrained(folder);
          expect(quantizedNames(loaded)).toEqual(names);
          expect(logitsOf(loaded)).toEqual(logits);
          loaded.dispose();
        }
      });
    },
  );

  test('ignores a config whose type differs from the files, or whose files are not quantized', async () => {
    const warnings: string[] = [];
    const restore = setWarningHandler((message) => warnings.push(message));
    try {
      await inFolder(async (folder) => {
        const plain = logitsOf(model);
        await model.save(folder);
        const path = join(folder, 'config.json');
        const config = JSON.parse(await readFile(path, 'utf8'));
        const quantization_config = {
          quant_method: 'bitsandbytes',
          load_in_4bit: true,
          bnb_4bit_quant_type: 'nf4',
        };
        await writeFile(path, JSON.stringify({...config, quantization_config}));
        const loaded = await LlamaForCausalLM.fromPretrained(folder);
        expect(quantizedNames(loaded)).toEqual([]);
        expect(logitsOf(loaded)).toEqual(plain);
        expect(warnings.splice(0)).toEqual([expect.stringContaining('got no quantized weight')]);
        loaded.dispose();

        await model.quantize({type: 'fp4', blockSize: 32});
        const quantized = logitsOf(model);
        await model.save(folder);
        const saved = JSON.parse(await readFile(path, 'utf8'));
        saved.quantization_config.bnb_4bit_quant_type = 'nf4';
        await writeFile(path, JSON.stringify(saved));
        const again = await LlamaForCausalLM.fromPretrained(folder, {
          quantization: {type: 'fp4', doubleQuant: true, blockSize: 64, skipModules: ['down_proj']},
        });
        expect(logitsOf(again)).toEqual(quantized);
        expect(warnings).toEqual([
          expect.stringContaining('as it is, ignoring blockSize, doubleQuant, skipModules'),
        ]);
        again.dispose();
      });
    } finally {
      setWarningHandler(restore);
    }
  });

  test('refuses a folder that contradicts itself or the options', async () => {
    await inFolder(async (folder) => {
      await model.quantize({type: 'nf4'});
      await model.save(folder);
      const load = (options = {}) => LlamaForCausalLM.fromPretrained(folder, options);
      expect(await errorOf(() => load({quantization: {type: 'fp4'}}))).toEqual({
        code: 'UNSUPPORTED',
        message: expect.stringContaining('expected an unquantized model to quantize to fp4, got one in nf4'),
      });
      const path = join(folder, 'config.json');
      const config = JSON.parse(await readFile(path, 'utf8'));
      const withQuantization = async (changes: object) => {
        const quantization_config = {...config.quantization_config, ...changes};
        await writeFile(path, JSON.stringify({...config, quantization_config}));
      };
      for (const [changes, code, message] of [
        [
          {quant_method: 'hqq'},
          'UNSUPPORTED',
          'quant_method: expected "bitsandbytes" or "gptq" or "awq" or "fp8" or "compressed-tensors", got "hqq"',
        ],
        [
          {bnb_4bit_quant_type: 'nf3'},
          'INVALID_CONFIG',
          'bnb_4bit_quant_type: expected "nf4" or "fp4", got "nf3"',
        ],
        [{load_in_4bit: false}, 'INVALID_CONFIG', 'load_in_4bit: expected true'],
        [{bnb_4bit_compute_dtype: 'int8'}, 'INVALID_CONFIG', 'bnb_4bit_compute_dtype: expected float32'],
        [{llm_int8_skip_modules: 'lm_head'}, 'INVALID_CONFIG', 'llm_int8_skip_modules: expected a list'],
      ] as const) {
        await withQuantization(changes);
        expect(await errorOf(load)).toEqual({code, message: expect.stringContaining(message)});
      }
    });
    expect(await errorOf(() => tinyLlamaQuantized({type: 'nf5'}))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining("got 'nf5'. Nearest: nf4"),
    });
  });

  test('refuses NaN while loading, naming tensor and file', async () => {
    await inFolder(async (folder) => {
      const weight = model.namedParameters().get('model.layers.1.mlp.up_proj.weight')!;
      tf.tidy(() => void weight.write(tf.fill(weight.logicalShape, Number.NaN)));
      await model.save(folder);
      const tensors = tf.memory().numTensors;
      expect(await errorOf(() => LlamaForCausalLM.fromPretrained(folder, {quantization: NF4}))).toEqual({
        code: 'NON_FINITE',
        message: expect.stringContaining('model.layers.1.mlp.up_proj.weight'),
      });
      expect(tf.memory().numTensors).toBe(tensors);
    });
  });
});

async function tinyLlamaQuantized(quantization: {type: string}): Promise<void> {
  const model = tinyLlama();
  try {
    await model.quantize(quantization);
  } finally {
    model.dispose();
  }
}

describeEachBackend('a training step on quantized layers', () => {
  const shape = {...tinyConfig, hiddenSize: 128, intermediateSize: 256, numHiddenLayers: 3};
  const batch = {inputIds: tinyIds, labels: tinyIds};

  function qlora(): Llama {
    const model = Llama.fromConfig(shape, {dtype: 'bfloat16', seed: 1});
    return model.applyLoRA({rank: 2}) as Llama;
  }

  /** Measures the most bytes that a step needs. */
  async function peakOfStep(model: Llama): Promise<number> {
    tf.dispose((await model.computeGradients(batch)).gradients); // makes the tables that are kept
    const {peakBytes} = await tf.profile(async () => {
      const {gradients, loss} = await model.computeGradients(batch);
      tf.dispose(gradients);
      return tf.scalar(loss);
    });
    return peakBytes;
  }

  test('needs less memory than in 16 bits, by the difference of the weights', async () => {
    const model = qlora();
    const bytes = model.byteLength;
    const peak = await peakOfStep(model);
    await model.quantize(NF4);
    const saved = bytes - model.byteLength;
    expect(saved).toBeGreaterThan(0.5 * bytes);
    expect(await peakOfStep(model)).toBeLessThanOrEqual(peak - saved);
    model.dispose();
  });

  test('gives the gradients of the dequantized base', async () => {
    const model = qlora();
    stirAdapter(model);
    await model.quantize(NF4);
    const {gradients, loss} = await model.computeGradients(batch);
    for (const layer of model.adaptedLayers().values()) {
      layer.base = (layer.base as QuantizedDense).dequantize('float32');
    }
    const {gradients: expected, loss: expectedLoss} = await model.computeGradients(batch);
    expect(Math.abs(loss - expectedLoss)).toBeLessThan(1e-5 * expectedLoss);
    expect(Object.keys(gradients)).toHaveLength(42);
    for (const [name, gradient] of Object.entries(gradients)) {
      expectClose(gradient, expected[name], {relative: 1e-4}); // native TensorFlow adds the low-rank path in another order
    }
    model.dispose();
  });

  test('changes only adapters', async () => {
    const model = qlora();
    await model.quantize(NF4);
    const weights = () => [...model.adaptedLayers().values()].map(({base}) => base.weight.read().dataSync());
    const before = weights();
    const first = await model.trainOnBatch(batch);
    const second = await model.trainOnBatch(batch);
    expect(second.loss).toBeLessThan(first.loss);
    expect(weights()).toEqual(before);
    model.dispose();
  });
});
