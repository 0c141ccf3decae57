import type {QuantizedTensor} from '../../quant/quantizedTensor.ts';
import type {Quantizer} from '../../quant/quantizer.ts';
import {getQuantizer, quantizerNames, registerQuantizer} from '../../quant/quantizerRegistry.ts';
import {gaussian} from './fixtures/bitsandbytesGolden.ts';

test.each(['nf4', 'fp4', 'int8'])('has %s, which gives back similar values', (name) => {
  const quantizer = getQuantizer(name);
  const values = gaussian(10 * 64, 2);
  const matrix = quantizer.quantize(values, [10, 64], {blockSize: 64, doubleQuant: true, name: 'w'});
  expect(matrix.quantType).toBe(name);
  expect(matrix.shape).toEqual([10, 64]);
  expect(matrix.byteLength).toBeLessThan(values.byteLength / 3.5);
  const back = matrix.dequantizeRows(2, 5);
  expect(back).toEqual(matrix.dequantize().subarray(128, 320));
  const correlation = back.reduce((sum, value, i) => sum + value * values[128 + i], 0);
  const power = back.reduce((sum, value) => sum + value * value, 0);
  expect(correlation / power).toBeCloseTo(1, 1);
});

test('accepts a new quantizer, also when its cell runs twice', () => {
  const half: QuantizedTensor = {
    quantType: 'signs',
    shape: [1, 2],
    dtype: 'float32',
    byteLength: 1,
    dequantize: () => Float32Array.of(1, -1),
    dequantizeRows: () => Float32Array.of(1, -1),
  };
  const signs: Quantizer = {
    name: 'signs',
    quantize: () => half,
  };
  registerQuantizer(signs);
  registerQuantizer(signs);
  expect(getQuantizer('signs')).toBe(signs);
  expect(quantizerNames()).toEqual([
    'nf4',
    'fp4',
    'int8',
    'gptq',
    'awq',
    'fp8',
    'compressed-tensors',
    'signs',
  ]);
});

test('refuses taken, empty and unknown names', () => {
  const nf4 = getQuantizer('nf4');
  expect(() => registerQuantizer({...nf4})).toThrow(`expected a new name, got 'nf4'`);
  expect(() => registerQuantizer({...nf4, name: ''})).toThrow(`got ''`);
  expect(() => getQuantizer('nf')).toThrow(/expected one of nf4, fp4, int8.*got 'nf'\. Nearest: nf4/);
  expect(() => getQuantizer('int4')).toThrow('Nearest: nf4.');
  expect(() => getQuantizer('8bit')).toThrow('Nearest: int8.');
});
