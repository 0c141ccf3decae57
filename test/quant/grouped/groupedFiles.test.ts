import {GroupedTensor, type GroupedType} from '../../../quant/grouped/groupedTensor.ts';
import type {QuantizerFiles} from '../../../quant/quantizer.ts';
import {getQuantizer} from '../../../quant/quantizerRegistry.ts';
import type {TensorToWrite} from '../../../quant/safetensors/writeSafetensors.ts';

const NAME = 'q_proj.weight';
const filesOf = (type: string) => getQuantizer(type).files as Required<QuantizerFiles>;

const bytes = (count: number, seed: number): Uint8Array =>
  Uint8Array.from({length: count}, (_, i) => Math.imul(i + 7 * seed, 2654435761) >>> 24);

/** Returns what a file with these tensors and this config is to a quantizer. */
function sourceOf(tensors: TensorToWrite[], quantizationConfig: Record<string, unknown>) {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return {
    quantizationConfig,
    has: (name: string) => byName.has(name),
    info: (name: string) => byName.get(name)!,
    read(name: string) {
      const {buffer, byteOffset, byteLength} = byName.get(name)!.data as ArrayBufferView;
      return new Uint8Array(buffer, byteOffset, byteLength);
    },
  };
}

/** Makes a matrix of 16 rows and 64 columns; float16 scales. */
function matrixOf(quantType: GroupedType, bits: 4 | 8, groupCols: number): GroupedTensor {
  const groups = 16 * (64 / groupCols);
  return new GroupedTensor({
    quantType,
    shape: [16, 64],
    codeType: bits === 4 ? 'uint4' : 'uint8',
    codes: bytes(bits === 4 ? 512 : 1024, 1),
    groupShape: [1, groupCols],
    scales: Float32Array.from({length: groups}, (_, i) => (1 + (i % 9)) / 256),
    zeros: bytes(groups, 2).map((zero) => Math.max(1, bits === 4 ? zero & 15 : zero)),
    dtype: 'float16',
    file: quantType === 'gptq' ? {hasIndex: true} : undefined,
  });
}

describe('is written and read again', () => {
  test.each([
    ['gptq', 4, 32, {checkpoint_format: 'gptq', bits: 4, group_size: 32}],
    ['gptq', 8, 16, {checkpoint_format: 'gptq_v2', bits: 8, group_size: 16}],
    [
      'gptq',
      8,
      16,
      {format: 'gptq', bits: 4, group_size: 32, dynamic: {'+:.*q_proj': {bits: 8, group_size: 16}}},
    ],
    ['awq', 4, 64, {bits: 4, group_size: 64}],
  ] as const)('%s of %i bits in groups of %i', (type, bits, groupCols, settings) => {
    const matrix = matrixOf(type, bits, groupCols);
    const config = {quant_method: type, ...settings};
    const files = filesOf(type);
    const tensors = files.toTensors(NAME, matrix, config);
    const source = sourceOf(tensors, config);
    expect(files.keys(NAME, source)).toEqual(tensors.map(({name}) => name));
    expect(files.fromTensors(NAME, source, 'float32')).toEqual(matrix);
    expect(files.keys(NAME, sourceOf(tensors, {quant_method: 'other'}))).toEqual([]);
  });

  test('GPTQ without g_idx', () => {
    const config = {quant_method: 'gptq', bits: 4, group_size: 32};
    const matrix = new GroupedTensor({...matrixOf('gptq', 4, 32), file: {hasIndex: false}});
    const tensors = filesOf('gptq').toTensors(NAME, matrix, config);
    expect(tensors.map(({name}) => name)).toEqual(['q_proj.qweight', 'q_proj.qzeros', 'q_proj.scales']);
    expect(filesOf('gptq').fromTensors(NAME, sourceOf(tensors, config), 'float32')).toEqual(matrix);
  });

  test('8-bit floats whose last blocks are smaller', () => {
    const config = {quant_method: 'fp8', weight_block_size: [32, 32]};
    const tensors: TensorToWrite[] = [
      {name: NAME, dtype: 'F8_E4M3', shape: [40, 48], data: bytes(40 * 48, 3).map((code) => code & 0xbf)},
      {name: 'q_proj.weight_scale_inv', dtype: 'F32', shape: [2, 2], data: new Float32Array([1, 2, 4, 8])},
    ];
    const matrix = filesOf('fp8').fromTensors(NAME, sourceOf(tensors, config), 'bfloat16') as GroupedTensor;
    expect(matrix.groupShape).toEqual([32, 32]);
    const [first, last] = [0, 39 * 48 + 47].map((at) => (tensors[0].data as Uint8Array)[at]);
    const values = matrix.dequantize();
    const ones = new GroupedTensor({
      ...matrix,
      codes: Uint8Array.from({length: 1920}, () => 0x38),
    }).dequantize();
    expect([ones[0], ones[47], ones[39 * 48], ones[39 * 48 + 47]]).toEqual([1, 2, 4, 8]);
    expect([values[0] === 0, values[1919] === 0]).toEqual([(first & 127) === 0, (last & 127) === 0]);
    expect(filesOf('fp8').toTensors(NAME, matrix)).toEqual(tensors);
  });
});

test('refuses tensors that do not fit, by name', () => {
  const config = {quant_method: 'gptq', bits: 4, group_size: 32};
  const tensors = filesOf('gptq').toTensors(NAME, matrixOf('gptq', 4, 32), config);
  const read = (changed: TensorToWrite[], type = 'gptq') =>
    filesOf(type).fromTensors(NAME, sourceOf(changed, config), 'float32');
  const without = (name: string) => tensors.filter((tensor) => !tensor.name.endsWith(name));
  const index = {name: 'q_proj.g_idx', dtype: 'I32', shape: [96], data: new Int32Array(96)} as const;
  expect(() => read([...without('g_idx'), index])).toThrow(
    'q_proj.qweight: expected 4 or 8 bits for each of 96 columns',
  );
  const stray = {...index, shape: [64], data: new Int32Array(64).fill(2)};
  expect(() => read([...without('g_idx'), stray])).toThrow('groupIndex [0]: expected one of 2 groups, got 2');
  const scales = {name: 'q_proj.scales', dtype: 'F32', shape: [2, 8], data: new Float32Array(16)} as const;
  expect(() => read([...without('scales'), scales])).toThrow(
    'Tensor q_proj.scales: expected [2,16], got [2,8]',
  );
  expect(() => read([{...index, name: NAME, shape: [8, 12]}], 'fp8')).toThrow(
    'Tensor q_proj.weight: expected F8_E4M3 of 2 dimensions, got I32 [8,12]',
  );
});

test('only reads files, and says so', () => {
  for (const type of ['gptq', 'awq', 'fp8', 'compressed-tensors']) {
    expect(() => getQuantizer(type).quantize(new Float32Array(4), [2, 2], {name: NAME})).toThrow(
      `quantization ${NAME}: expected nf4, fp4, int8 or a quantizer of your own, got ${type}`,
    );
  }
});

describe('a config says only what is read', () => {
  const weights = {num_bits: 8, type: 'float', symmetric: true, dynamic: false, strategy: 'channel'};
  const WHOLE: Record<string, Record<string, unknown>> = {
    gptq: {
      quant_method: 'gptq',
      bits: 4,
      group_size: 128,
      desc_act: true,
      sym: true,
      dynamic: {},
      lm_head: false,
    },
    awq: {
      quant_method: 'awq',
      bits: 4,
      group_size: 128,
      zero_point: true,
      version: 'GEMM',
      modules_to_not_convert: null,
    },
    fp8: {quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [128, 128], activation_scheme: 'dynamic'},
    'compressed-tensors': {
      quant_method: 'compressed-tensors',
      format: 'float-quantized',
      config_groups: {group_0: {targets: ['Linear'], weights, input_activations: null}},
      ignore: ['lm_head'],
    },
  };
  const check = (type: string, changes: object) => () =>
    filesOf(type).assertConfig({...WHOLE[type], ...changes}, 'config');

  test.each(Object.keys(WHOLE))('%s', (type) => expect(check(type, {})).not.toThrow());

  test.each([
    ['gptq', {bits: 3}, 'config.bits: expected 4 or 8, got 3'],
    [
      'gptq',
      {checkpoint_format: 'marlin'},
      'config.checkpoint_format: expected "gptq" or "gptq_v2", got "marlin"',
    ],
    ['gptq', {is_marlin_format: true}, 'config.is_marlin_format: expected none, got true'],
    ['gptq', {pack_dtype: 'int64'}, 'config.pack_dtype: expected "int32", got "int64"'],
    ['gptq', {adapter: {path: 'eora'}}, 'config.adapter: expected none'],
    ['gptq', {planar: true}, 'config.planar: expected no such key, got true'],
    ['awq', {version: 'gemv_fast'}, 'config.version: expected "gemm", got "gemv_fast"'],
    ['awq', {bits: 8}, 'config.bits: expected 4, got 8'],
    ['awq', {backend: 'llm-awq'}, 'config.backend: expected another backend, got "llm-awq"'],
    ['fp8', {fmt: 'e5m2'}, 'config.fmt: expected "e4m3", got "e5m2"'],
    ['fp8', {scale_fmt: 'ue8m0'}, 'config.scale_fmt: expected "float", got "ue8m0"'],
    ['fp8', {modules_to_convert: ['embed_tokens']}, 'config.modules_to_convert: expected none'],
    ['compressed-tensors', {format: 'pack-quantized'}, 'config.format: expected "float-quantized" or'],
    ['compressed-tensors', {kv_cache_scheme: {num_bits: 8}}, 'config.kv_cache_scheme: expected none'],
    [
      'compressed-tensors',
      {config_groups: {group_0: {weights: {...weights, num_bits: 4}}}},
      'config.config_groups.group_0.weights.num_bits: expected 8, got 4',
    ],
    [
      'compressed-tensors',
      {config_groups: {a: {weights: null}}},
      'config.config_groups.a: expected weights in',
    ],
  ])('%s refuses %j', (type, changes, message) => expect(check(type, changes)).toThrow(message));
});
