import * as tf from '@tensorflow/tfjs';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import type {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {quantize} from '../../models/keras/quantize.ts';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import type {NestedAbsmax} from '../../quant/blockwise/doubleQuantization.ts';
import type {FourBitTensor} from '../../quant/fourBitTensor.ts';
import {errorOf, logitsOf, tinyLlama} from './tinyLlama.ts';

/** The model is wide enough that double quantization has many scales. */
const WIDE = {hiddenSize: 128, intermediateSize: 512, numHiddenLayers: 1};

beforeAll(() => tf.setBackend('cpu'));

async function scaleCodes(model: LlamaForCausalLM): Promise<number[]> {
  const codes: number[] = [];
  for (const parameter of model.namedParameters().values()) {
    if (parameter.storage !== 'quantized') continue;
    const matrix = (await (parameter as QuantizedParameter).readMatrix()) as FourBitTensor;
    codes.push(...(matrix.absmax as NestedAbsmax).quantized);
  }
  return codes;
}

test('accepts a type alone as short for {type}', async () => {
  const [short, long] = [tinyLlama(), tinyLlama()];
  await short.quantize('nf4');
  await long.quantize({type: 'nf4'});
  expect(logitsOf(short)).toEqual(logitsOf(long));
  expect(short.getLayer('model.layers.0.mlp.up_proj')).toBeInstanceOf(QuantizedDense);
  short.dispose();
  long.dispose();
});

test('accepts it wherever a quantization is taken', async () => {
  const files = new Map<string, Blob>();
  const model = tinyLlama();
  await model.save(files);
  const loaded = await LlamaForCausalLM.fromPretrained(files, {quantization: 'nf4'});
  expect(loaded.getLayer('model.layers.0.mlp.up_proj')).toBeInstanceOf(QuantizedDense);
  const dense = new TransposedDense({units: 4, name: 'base'});
  dense.build([null, 4]);
  const layers = [
    new QuantizedDense({units: 4, quantization: 'nf4'}),
    await QuantizedDense.fromDense(dense, 'nf4'),
    QuantizedDense.like(dense, 'nf4'),
  ];
  for (const layer of layers) expect(layer.getConfig().quantization).toEqual({type: 'nf4'});
  const keras = await quantize(
    tf.sequential({layers: [tf.layers.dense({units: 4, inputShape: [4], name: 'fc'})]}),
    'nf4',
  );
  expect(keras.getLayer('fc')).toBeInstanceOf(QuantizedDense);
  for (const each of [model, loaded, keras]) each.dispose();
});

test('changes the codes of the scales with absmaxSearch, by default nearest', async () => {
  const codes: Record<string, number[]> = {};
  for (const absmaxSearch of [undefined, 'nearest', 'table'] as const) {
    const model = tinyLlama(WIDE);
    await model.quantize({type: 'nf4', doubleQuant: true, blockSize: 32, absmaxSearch});
    codes[`${absmaxSearch}`] = await scaleCodes(model);
    model.dispose();
  }
  expect(codes.undefined.length).toBeGreaterThan(5000);
  expect(codes.nearest).toEqual(codes.undefined);
  expect(codes.table).not.toEqual(codes.nearest);
});

test.each(['rankPattern', 'alphaPattern'])(
  'applyLoRA refuses a key of %s that names no adapted layer',
  async (name) => {
    const model = tinyLlama();
    for (const key of ['qproj', 'o_proj', String.raw`layers\.7\..*`]) {
      expect(
        await errorOf(() =>
          model.applyLoRA({targetModules: ['q_proj', 'v_proj'], rank: 2, [name]: {[key]: 4}}),
        ),
      ).toEqual({
        code: 'UNKNOWN_TARGET',
        message: expect.stringContaining(`LoRA ${name} `),
      });
    }
    expect(await errorOf(() => model.applyLoRA({rank: 2, [name]: {qproj: 4}}))).toEqual({
      code: 'UNKNOWN_TARGET',
      message: expect.stringContaining('Nearest: q_proj'),
    });
    expect(model.adapterNames).toEqual([]);
    model.applyLoRA({rank: 2, [name]: {q_proj: 4, [String.raw`layers\.1\.mlp\..*`]: 4}});
    model.dispose();
  },
);
