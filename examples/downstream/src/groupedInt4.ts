import {
  assertKnownOptions,
  finiteValues,
  type MatrixShape,
  type QuantizedTensor,
  type Quantizer,
  registerQuantizer,
  rowsTarget,
  type StorageDtype,
  TfjsLoraError,
} from 'tfjs-lora/quant';

const NAME = 'grouped-int4';
const LEVELS = 15;

/** 16 equal steps between the smallest and the largest value of each group of a row. */
export class GroupedInt4Tensor implements QuantizedTensor {
  readonly quantType = NAME;

  /**
   * @param codes two to a byte, the first in the high half
   * @param steps size of a step, for each group of each row
   * @param lows the smallest value of each group
   * @param dtype dtype before quantization
   */
  constructor(
    readonly shape: MatrixShape,
    readonly groupSize: number,
    readonly codes: Uint8Array,
    readonly steps: Float32Array,
    readonly lows: Float32Array,
    readonly dtype: StorageDtype,
  ) {}

  get byteLength(): number {
    return this.codes.byteLength + this.steps.byteLength + this.lows.byteLength;
  }

  dequantize(out?: Float32Array): Float32Array {
    return this.dequantizeRows(0, this.shape[0], out);
  }

  dequantizeRows(begin: number, end: number, out?: Float32Array): Float32Array {
    const values = rowsTarget(NAME, this.shape, begin, end, out);
    const [, cols] = this.shape;
    const groups = Math.ceil(cols / this.groupSize);
    for (let i = 0; i < values.length; i++) {
      const at = begin * cols + i;
      const group = Math.floor(at / cols) * groups + Math.floor((at % cols) / this.groupSize);
      const code = (this.codes[at >> 1] >> (at % 2 === 0 ? 4 : 0)) & 15;
      values[i] = this.lows[group] + code * this.steps[group];
    }
    return values;
  }
}

const quantize: Quantizer['quantize'] = (values, [rows, cols], {dtype, name, ...options} = {}) => {
  assertKnownOptions(NAME, options, {groupSize: true});
  const {groupSize = 32} = options as {groupSize?: number};
  if (!(Number.isInteger(groupSize) && groupSize > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${NAME} groupSize: expected a whole number above 0, got ${groupSize}`,
    );
  }
  const floats = finiteValues(values, dtype, name);
  const groups = Math.ceil(cols / groupSize);
  const codes = new Uint8Array(Math.ceil(floats.length / 2));
  const [steps, lows] = [new Float32Array(rows * groups), new Float32Array(rows * groups)];
  for (let group = 0; group < rows * groups; group++) {
    const first = Math.floor(group / groups) * cols + (group % groups) * groupSize;
    const size = Math.min(groupSize, cols - (group % groups) * groupSize);
    const own = floats.subarray(first, first + size);
    const [low, high] = [Math.min(...own), Math.max(...own)];
    lows[group] = low;
    steps[group] = (high - low) / LEVELS;
    for (const [i, value] of own.entries()) {
      const code = high === low ? 0 : Math.min(LEVELS, Math.round((value - low) / steps[group]));
      codes[(first + i) >> 1] |= (first + i) % 2 === 0 ? code << 4 : code;
    }
  }
  return new GroupedInt4Tensor([rows, cols], groupSize, codes, steps, lows, dtype ?? 'float32');
};

/** The names in files: those of the weight, with another end. */
const PARTS = ['int4_codes', 'int4_steps', 'int4_lows', 'int4_shape'] as const;
const keysOf = (name: string): string[] => PARTS.map((part) => name.replace(/weight$/, part));

registerQuantizer({
  name: NAME,
  quantize,
  files: {
    keys: (name, source) => keysOf(name).filter((key) => source.has(key)),
    toTensors(name, matrix) {
      const {shape, groupSize, codes, steps, lows} = matrix as GroupedInt4Tensor;
      const [codesKey, stepsKey, lowsKey, shapeKey] = keysOf(name);
      return [
        {name: codesKey, dtype: 'U8', shape: [codes.length], data: codes},
        {name: stepsKey, dtype: 'F32', shape: [steps.length], data: steps},
        {name: lowsKey, dtype: 'F32', shape: [lows.length], data: lows},
        {name: shapeKey, dtype: 'I32', shape: [3], data: Int32Array.of(...shape, groupSize)},
      ];
    },
    fromTensors(name, source, dtype) {
      const [codesKey, stepsKey, lowsKey, shapeKey] = keysOf(name);
      const bytes = (key: string) => source.read(key).slice().buffer;
      const [rows, cols, groupSize] = new Int32Array(bytes(shapeKey));
      const codes = new Uint8Array(bytes(codesKey));
      if (codes.length !== Math.ceil((rows * cols) / 2)) {
        throw new TfjsLoraError(
          'SHAPE_MISMATCH',
          `Tensor ${codesKey}: expected codes for [${rows}, ${cols}], got ${codes.length} bytes`,
        );
      }
      const [steps, lows] = [stepsKey, lowsKey].map((key) => new Float32Array(bytes(key)));
      return new GroupedInt4Tensor([rows, cols], groupSize, codes, steps, lows, dtype);
    },
  },
});
