import {Parameter} from '../../layers/parameter.ts';
import {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {fromFloat32, roundInPlace, type StorageDtype} from '../../quant/float16.ts';
import {quantizeNF4} from '../../quant/index.ts';
import {FILE_DTYPES} from '../../quant/safetensors/floatDtypes.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {errorOf} from '../models/tinyLlama.ts';

const SHAPE: [number, number] = [3, 5]; // rows of an odd length end in half a word
const VALUES = Float32Array.from({length: 15}, (_, i) => (i - 7) / 3);
const DTYPES = Object.keys(FILE_DTYPES) as StorageDtype[];
const PAIRS = DTYPES.flatMap((file) => DTYPES.map((storage) => [file, storage] as const));

const bytesOf = ({buffer, byteOffset, byteLength}: ArrayBufferView) =>
  new Uint8Array(buffer, byteOffset, byteLength);
const fileBytes = (dtype: StorageDtype, values: Float32Array = VALUES) =>
  bytesOf(fromFloat32(values, dtype)).slice();
const rounded = (...dtypes: StorageDtype[]) => dtypes.reduce<Float32Array>(roundInPlace, VALUES.slice());
const weight = (storage: StorageDtype) => new Parameter({name: 'layer.weight', shape: SHAPE, storage});

describeEachBackend('Parameter', () => {
  test.each(PAIRS)('takes the bytes of a file in %s as %s and gives them back', async (file, storage) => {
    await expectNoLeak(async () => {
      const parameter = weight(storage).load(fileBytes(file), FILE_DTYPES[file]);
      for (const dtype of DTYPES) {
        const bytes = bytesOf(await parameter.toBytes(dtype));
        expect(bytes).toEqual(fileBytes(dtype, rounded(file, storage)));
      }
      parameter.dispose();
    });
  });

  test('refuses NaN and infinity by its given name, unless they are allowed', async () => {
    const damaged = VALUES.map((value, i) => (i === 4 ? Number.POSITIVE_INFINITY : value));
    for (const storage of ['float32', 'float16'] as const) {
      const parameter = weight(storage);
      const load = (options?: {where?: string; checkFinite?: boolean}) =>
        parameter.load(fileBytes(storage, damaged), FILE_DTYPES[storage], options);
      const {code, message} = await errorOf(() => load({where: 'tensor w (a.safetensors)'}));
      expect(code).toBe('NON_FINITE');
      expect(message).toMatch(/^tensor w \(a\.safetensors\): expected numbers, got .* at element 4\. /);
      expect((await errorOf(load)).message).toMatch(/^weight layer\.weight: expected numbers/);
      load({checkFinite: false});
      parameter.dispose();
    }
  });

  test('refuses a type that is not for weights', async () => {
    const parameter = weight('float32');
    expect((await errorOf(() => parameter.load(new Uint8Array(60), 'I32'))).code).toBe('UNSUPPORTED');
    parameter.dispose();
  });

  test.each(PAIRS)('a quantized one takes the bytes of a file in %s rounded to %s', async (file, storage) => {
    await expectNoLeak(async () => {
      const parameter = new QuantizedParameter('layer.weight', SHAPE, {type: 'nf4'}, storage);
      parameter.load(fileBytes(file), FILE_DTYPES[file]);
      expect(parameter.sourceDtype).toBe(storage);
      const expected = quantizeNF4(fromFloat32(rounded(file, storage), storage), SHAPE, {dtype: storage});
      expect(await parameter.toBytes('float32')).toEqual(expected.dequantize());
      parameter.dispose();
    });
  });
});
