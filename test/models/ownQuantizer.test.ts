import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {LlamaForCausalLM} from '../../models/llama/llama.ts';
import type {TfjsLoraError} from '../../quant/errors.ts';
import type {MatrixShape, QuantizedTensor} from '../../quant/quantizedTensor.ts';
import type {Quantizer} from '../../quant/quantizer.ts';
import {registerQuantizer} from '../../quant/quantizerRegistry.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {AutoModelForCausalLM, Llama} from '../../src/index.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, tinyConfig, tinyIds} from './tinyLlama.ts';

/** Steps of equal size in each row, in 8 bits. */
class StepTensor implements QuantizedTensor {
  readonly quantType: string = 'test-steps';
  readonly dtype = 'float32';
  constructor(
    readonly shape: MatrixShape,
    readonly codes: Int8Array,
    readonly steps: Float32Array,
  ) {}
  get byteLength(): number {
    return this.codes.length + 4 * this.steps.length;
  }
  dequantize(out?: Float32Array): Float32Array {
    return this.dequantizeRows(0, this.shape[0], out);
  }
  dequantizeRows(
    begin: number,
    end: number,
    out: Float32Array = new Float32Array((end - begin) * this.shape[1]),
  ): Float32Array {
    const [, cols] = this.shape;
    return out.map((_, i) => this.codes[begin * cols + i] * this.steps[begin + Math.floor(i / cols)]);
  }
}

const part = (name: string, suffix: string) => name.replace(/weight$/, suffix);

const steps: Quantizer = {
  name: 'test-steps',
  quantize(values, [rows, cols], {levels = 127} = {}) {
    const floats = values as Float32Array;
    const row = (i: number) => floats.subarray(i * cols, (i + 1) * cols);
    const sizes = Float32Array.from(
      {length: rows},
      (_, i) => Math.max(...row(i).map(Math.abs)) / Number(levels),
    );
    return new StepTensor(
      [rows, cols],
      Int8Array.from(floats, (value, i) => Math.round(value / sizes[Math.floor(i / cols)])),
      sizes,
    );
  },
  files: {
    keys: (name, source) =>
      ['codes', 'steps'].map((suffix) => part(name, suffix)).filter((key) => source.has(key)),
    toTensors: (name, matrix) => {
      const {shape, codes, steps} = matrix as StepTensor;
      return [
        {name: part(name, 'codes'), dtype: 'I8', shape: [...shape], data: codes},
        {name: part(name, 'steps'), dtype: 'F32', shape: [shape[0], 1], data: steps},
      ];
    },
    fromTensors: (name, source) => {
      const [rows, cols] = source.info(part(name, 'codes')).shape;
      const [codes, sizes] = ['codes', 'steps'].map(
        (suffix) => source.read(part(name, suffix)).slice().buffer,
      );
      return new StepTensor([rows, cols], new Int8Array(codes), new Float32Array(sizes));
    },
  },
};
/** The same without files. */
const unsaved: Quantizer = {...steps, name: 'test-unsaved', files: undefined};

const config = {...tinyConfig, tieWordEmbeddings: false};
const configOf = async (folder: string) => JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));

describeEachBackend('a quantizer of one’s own', () => {
  let model: Llama;
  let before: number;
  beforeAll(() => {
    registerQuantizer(steps);
    registerQuantizer(unsaved);
  });
  beforeEach(() => {
    before = tf.memory().numTensors;
    model = Llama.fromConfig(config, {seed: 1});
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('stores a model in its own format, which is read again', async () => {
    await model.quantize({type: 'test-steps', levels: 100, skipModules: ['lm_head', 'down_proj']});
    const logits = logitsOf(model as LlamaForCausalLM);
    await inFolder(async (folder) => {
      await model.save(folder);
      expect((await configOf(folder)).quantization_config).toEqual({
        quant_method: 'test-steps',
        levels: 100,
        modules_to_not_convert: ['lm_head', ...[0, 1].map((block) => `model.layers.${block}.mlp.down_proj`)],
      });
      const file = SafetensorsFile.open(join(folder, 'model.safetensors'));
      expect(file.info('model.layers.0.self_attn.q_proj.codes').dtype).toBe('I8');
      expect(file.has('model.layers.0.self_attn.q_proj.weight')).toBe(false);
      file.close();
      const again = await AutoModelForCausalLM.fromPretrained(folder);
      expect(logitsOf(again as unknown as LlamaForCausalLM)).toEqual(logits);
      await again.save(join(folder, 'again'));
      expect(await configOf(join(folder, 'again'))).toEqual(await configOf(folder));
      again.applyLoRA({rank: 2, targetModules: ['q_proj']});
      again.compile({optimizer: 'adamw'});
      const batch = {inputIds: tinyIds, labels: tinyIds};
      const {loss} = await again.trainOnBatch(batch);
      for (let step = 0; step < 5; step++) await again.trainOnBatch(batch);
      expect((await again.trainOnBatch(batch)).loss).toBeLessThan(loss);
      again.dispose();
      expect(await errorOf(() => Llama.fromPretrained(folder, {quantization: 'nf4'}))).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringContaining('to quantize to nf4, got one in test-steps'),
      });
    });
  });

  test('names a tensor that is missing or has another shape', async () => {
    await model.quantize('test-steps');
    await inFolder(async (folder) => {
      await model.save(folder);
      const other = {...(await configOf(folder)), num_key_value_heads: 1};
      await writeFile(join(folder, 'config.json'), JSON.stringify(other));
      expect(await errorOf(() => Llama.fromPretrained(folder))).toMatchObject({
        code: 'SHAPE_MISMATCH',
        message: expect.stringMatching(
          /^tensor model\.layers\.0\.self_attn\.k_proj\.codes .*expected \[2, 8\] .*got \[4, 8\]/,
        ),
      });
    });
  });

  test('is saved dequantized when it has no format for files', async () => {
    await model.quantize('test-unsaved');
    await inFolder(async (folder) => {
      expect(await errorOf(() => model.save(folder))).toEqual({
        code: 'UNSUPPORTED',
        message:
          'save quantization: expected one of nf4, fp4, int8, gptq, awq, fp8, compressed-tensors, test-steps throughout, got test-unsaved. ' +
          'They cannot be stored in one model. Pass {dequantize: true}.',
      });
      await model.save(folder, {dequantize: true});
      const json = {...(await configOf(folder)), quantization_config: {quant_method: 'test-unsaved'}};
      await writeFile(join(folder, 'config.json'), JSON.stringify(json));
      const error = (await errorOf(() => Llama.fromPretrained(folder))) as TfjsLoraError;
      expect(error.message).toContain(
        'quant_method: expected "bitsandbytes" or "gptq" or "awq" or "fp8" or "compressed-tensors" or "test-steps", ' +
          'got "test-unsaved"',
      );
    });
  });
});
