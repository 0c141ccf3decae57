import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {
  bitsandbytesKeys,
  bitsandbytesType,
  fromTensors,
  type TensorSource,
  toTensors,
} from '../../quant/bitsandbytesState.ts';
import {quantizeFP4, quantizeNF4} from '../../quant/blockwise/fourBit.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {float32ToBfloat16, float32ToFloat16} from '../../quant/float16.ts';
import type {FourBitTensor} from '../../quant/fourBitTensor.ts';
import {type Int8Tensor, quantizeInt8} from '../../quant/int8.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../quant/safetensors/writeSafetensors.ts';
import {BITSANDBYTES_FOLDER, gaussian} from './fixtures/bitsandbytesGolden.ts';
import {temporaryFolder} from './safetensors/temporaryFolder.ts';

const NAME = 'layer.weight';
const files = readdirSync(BITSANDBYTES_FOLDER);
const fourBitFiles = files.filter((file) => !file.startsWith('int8'));

function expected(file: string): FourBitTensor | Int8Tensor {
  if (file.startsWith('int8')) {
    return quantizeInt8(float32ToFloat16(gaussian(6 * 40, 11)), [6, 40], {dtype: 'float16'});
  }
  const quantize = file.startsWith('nf4') ? quantizeNF4 : quantizeFP4;
  const doubleQuant = file.includes('nested');
  return quantize(float32ToBfloat16(gaussian(48 * 64, 7)), [48, 64], {
    dtype: 'bfloat16',
    doubleQuant,
    absmaxSearch: 'table',
  });
}

describe.each(files)('%s', (fileName) => {
  const path = join(BITSANDBYTES_FOLDER, fileName);

  test('equals what we quantize ourselves', () => {
    const file = SafetensorsFile.open(path);
    expect(bitsandbytesType(NAME, file)).toBe(fileName.split(/[_.]/)[0]);
    expect(fromTensors(NAME, file)).toEqual(expected(fileName));
    expect(bitsandbytesKeys(NAME, file).sort()).toEqual(file.names().sort());
    file.close();
  });
});

test.each(files.filter((file) => /uint8|int8\.s/.test(file)))('writes %s byte for byte', async (fileName) => {
  const folder = temporaryFolder();
  const path = join(folder, 'model.safetensors');
  await writeSafetensors(path, toTensors(NAME, expected(fileName)), {format: 'pt'});
  expect(readFileSync(path).equals(readFileSync(join(BITSANDBYTES_FOLDER, fileName)))).toBe(true);
});

test.each([0.5, 1, 100, 1e-5, 0.0001, 1e17, 123456789, -2.5e-7])(
  'writes the offset %p as Python does',
  (offset) => {
    const matrix = quantizeNF4(gaussian(64, 1), [1, 64], {doubleQuant: true});
    const moved = Object.assign(Object.create(matrix), {absmax: {...(matrix.absmax as object), offset}});
    const state = toTensors(NAME, moved).find(({name}) => name.endsWith('nf4'))!.data as Uint8Array;
    const text = {
      1e-5: '1e-05',
      1e17: '1e+17',
      1: '1.0',
      100: '100.0',
      123456789: '123456789.0',
      [-2.5e-7]: '-2.5e-07',
    }[offset];
    expect(new TextDecoder().decode(state)).toContain(`"nested_offset": ${text ?? offset}}`);
  },
);

describe('refuses a damaged file, naming the key', () => {
  const tensors = () => new Map(toTensors(NAME, expected('nf4_nested')).map((each) => [each.name, each]));
  const sourceOf = (map: ReturnType<typeof tensors>): TensorSource => ({
    has: (name) => map.has(name),
    info: (name) => {
      const found = map.get(name);
      if (found === undefined) throw new TfjsLoraError('MISSING_TENSOR', `Tensor ${name}: none`);
      return found;
    },
    read: (name) => {
      const view = map.get(name)!.data as Uint8Array;
      return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    },
  });
  const state = `${NAME}.quant_state.bitsandbytes__nf4`;
  const withState = (change: (json: Record<string, unknown>) => void) => {
    const map = tensors();
    const json = JSON.parse(new TextDecoder().decode(map.get(state)!.data as Uint8Array));
    change(json);
    map.set(state, {...map.get(state)!, data: new TextEncoder().encode(JSON.stringify(json))});
    return sourceOf(map);
  };

  test.each([
    ['quant_type', 'fp4'],
    ['blocksize', 0],
    ['blocksize', 1.5],
    ['dtype', 'float64'],
    ['shape', [48, 64, 1]],
    ['shape', [48, -64]],
    ['nested_blocksize', 'x'],
    ['nested_dtype', 'float16'],
    ['nested_offset', null],
  ])('%s %p', (field, value) => {
    const source = withState((json) => {
      json[field] = value;
    });
    expect(() => fromTensors(NAME, source)).toThrow(`Tensor ${state} [${field}]: expected`);
  });

  test.each([`${NAME}.absmax`, `${NAME}.quant_map`, `${NAME}.nested_absmax`, `${NAME}.nested_quant_map`])(
    'without %s',
    (key) => {
      const map = tensors();
      map.delete(key);
      expect(() => fromTensors(NAME, sourceOf(map))).toThrow(`Tensor ${key}`);
    },
  );

  test.each([NAME, `${NAME}.absmax`, `${NAME}.quant_map`, `${NAME}.nested_absmax`])('%s cut short', (key) => {
    const map = tensors();
    const data = map.get(key)!.data as Uint8Array;
    map.set(key, {...map.get(key)!, data: data.subarray(0, data.length - 1)});
    expect(() => fromTensors(NAME, sourceOf(map))).toThrow(`Tensor ${key} [bitsandbytes]: expected`);
  });

  test('invalid JSON, another code book, another dtype, no state at all', () => {
    const map = tensors();
    map.set(state, {...map.get(state)!, data: new TextEncoder().encode('{"quant_type": ')});
    expect(() => fromTensors(NAME, sourceOf(map))).toThrow(`Tensor ${state} [JSON]`);
    const other = tensors();
    other.set(`${NAME}.quant_map`, {...other.get(`${NAME}.quant_map`)!, data: new Float32Array(16)});
    expect(() => fromTensors(NAME, sourceOf(other))).toThrow(
      `Tensor ${NAME}.quant_map: expected the nf4 numbers`,
    );
    const typed = tensors();
    typed.set(NAME, {...typed.get(NAME)!, dtype: 'I32'});
    expect(() => fromTensors(NAME, sourceOf(typed))).toThrow(
      'expected dtype U8 or BF16 or F16 or F32, got I32',
    );
    expect(() => fromTensors('other.weight', sourceOf(map))).toThrow('Tensor other.weight');
    expect(bitsandbytesType('other.weight', sourceOf(map))).toBeUndefined();
  });

  test('refuses outlier columns, which the file cannot store', () => {
    const matrix = quantizeInt8(Float32Array.of(1, 7, 2, 3), [2, 2], {threshold: 6});
    expect(() => toTensors(NAME, matrix)).toThrow('expected no outlier columns, got 1');
  });
});

test('reads the same bytes from a weight stored as 16- or 32-bit floats', () => {
  expect(fourBitFiles.filter((file) => !file.includes('uint8'))).toHaveLength(12);
});
