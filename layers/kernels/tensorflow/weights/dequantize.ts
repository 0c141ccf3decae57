import {FP4_CODE, NF4_CODE} from '../../../../quant/blockwise/codebooks.ts';
import type {StorageDtype} from '../../../../quant/float16.ts';
import {FLOAT8_VALUES} from '../../../../quant/grouped/float8.ts';
import {
  type DeviceFormat,
  type FourBitMatrix,
  type GroupedMatrix,
  groupGrid,
  type Int8Matrix,
} from '../../../ops/quantizedMatrix.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';
import {widen16} from './widen16.ts';

/** bitsandbytes multiplies by the float32 nearest to 1/127 instead of dividing. */
const ONE_OF_127 = Math.fround(1 / 127);

/** The tensors of a quantized matrix by their names in its storage. */
export type QuantizedHandles = Record<string, Handle>;

/**
 * Dequantizes rows `begin` to `end` of a matrix, bit-exact with the method's own library.
 *
 * @returns `[end − begin, cols]` float32
 */
export function dequantize(
  ops: Ops,
  tensors: QuantizedHandles,
  attributes: DeviceFormat,
  begin: number,
  end: number,
): Handle {
  return ops.scope(() => {
    if (attributes.dtype === 'int8') return int8Rows(ops, tensors, attributes, begin, end);
    if (attributes.dtype === 'grouped') return groupedRows(ops, tensors, attributes, begin, end);
    return fourBitRows(ops, tensors, attributes, begin, end);
  });
}

/** Values of codes: those of a whole number are the number, so that four of 4 bits take one look-up. */
function groupedTable(ops: Ops, codeType: GroupedMatrix['codeType']): Handle {
  if (codeType !== 'uint4') {
    return ops.table(codeType, [256], () =>
      Float32Array.from({length: 256}, (_, i) => (codeType === 'e4m3' ? FLOAT8_VALUES[i] : i)),
    );
  }
  return ops.table(codeType, [65536, 4], () =>
    Float32Array.from({length: 4 * 65536}, (_, i) => ((i >> 2) >> (4 * (i & 3))) & 15),
  );
}

function groupedRows(
  ops: Ops,
  tensors: QuantizedHandles,
  attributes: Omit<GroupedMatrix, 'tensors'>,
  begin: number,
  end: number,
): Handle {
  const {cols, codeType, groupRows, groupCols, hasZeros, valueDtype} = attributes;
  const [down, across] = groupGrid(attributes);
  const isFourBit = codeType === 'uint4';
  const perWord = isFourBit ? 8 : 4;
  const words = part(ops, words32(ops, tensors.codes), (begin * cols) / perWord, (end * cols) / perWord);
  const codes = ops.cast(ops.bitcast(words, isFourBit ? DataType.uint16 : DataType.uint8), DataType.int32);
  const isEven = !tensors.groupIndex && cols % groupCols === 0; // then groups are an axis of their own
  const shape = isEven ? [end - begin, across, groupCols] : [end - begin, cols];
  const numbers = ops.reshape(ops.gather(groupedTable(ops, codeType), codes), shape);
  const spread = (groups: Handle) => {
    const grid = ops.reshape(groups, [down, across]);
    const ofRows = down === 1 ? grid : groupRows === 1 ? rowsOf(ops, grid, begin, end) : gatherRows(grid);
    return isEven ? ops.reshape(ofRows, [ofRows.shape[0], across, 1]) : ops.gather(ofRows, colGroups(), 1);
  };
  const gatherRows = (grid: Handle) =>
    ops.gather(
      grid,
      ops.integers(Array.from({length: end - begin}, (_, i) => Math.floor((begin + i) / groupRows))),
    );
  const colGroups = () =>
    tensors.groupIndex ?? ops.integers(Array.from({length: cols}, (_, col) => Math.floor(col / groupCols)));
  const scaled = (normal: Handle) =>
    rounded(ops, ops.reshape(ops.mul(normal, spread(tensors.scales)), [end - begin, cols]), valueDtype);
  if (!hasZeros) return scaled(numbers);
  const bytes = part(
    ops,
    flatten(ops, ops.bitcast(words32(ops, tensors.zeros), DataType.int8)),
    0,
    down * across,
  );
  const zeros = ops.cast(ops.cast(ops.bitcast(bytes, DataType.uint8), DataType.int32), DataType.float32);
  return scaled(ops.sub(numbers, spread(zeros)));
}

/** Returns rows `begin` to `end` of a matrix. */
function rowsOf(ops: Ops, matrix: Handle, begin: number, end: number): Handle {
  const [rows, cols] = matrix.shape;
  return end - begin === rows ? matrix : ops.slice(matrix, [begin, 0], [end - begin, cols]);
}

const numbersOf = (dtype: 'nf4' | 'fp4') => (dtype === 'nf4' ? NF4_CODE : FP4_CODE);

function codesOf(ops: Ops, dtype: 'nf4' | 'fp4'): Handle {
  return ops.table(`${dtype} codes`, [16], () => Float32Array.from(numbersOf(dtype)));
}

/** Two bytes, hence four values, take one look-up: a quarter of the look-ups, in a table that stays in the cache. */
function fourBitTable(ops: Ops, dtype: 'nf4' | 'fp4'): Handle {
  const codes = numbersOf(dtype);
  return ops.table(dtype, [65536, 4], () => {
    const table = new Float32Array(65536 * 4);
    for (let pair = 0; pair < 65536; pair++) {
      [4, 0, 12, 8].forEach((shift, i) => {
        table[4 * pair + i] = codes[(pair >> shift) & 15]; // the first of a byte is in its high half
      });
    }
    return table;
  });
}

function fourBitRows(
  ops: Ops,
  tensors: QuantizedHandles,
  attributes: Omit<FourBitMatrix, 'tensors'>,
  begin: number,
  end: number,
): Handle {
  const {dtype, rows, cols, blockSize, valueDtype} = attributes;
  const [first, last] = [begin * cols, end * cols];
  // A row may begin inside a block, so whole blocks are dequantized and cut. A block is whole words.
  const [firstBlock, lastBlock] = [Math.floor(first / blockSize), Math.ceil(last / blockSize)];
  const [from, to] = [firstBlock * blockSize, Math.min(lastBlock * blockSize, rows * cols)];
  const blocks = lastBlock - firstBlock;
  const ofBlocks = blockScales(ops, tensors, attributes, firstBlock, lastBlock);
  if (ops.areFused) {
    const place = ops.integers([first, last, from, blockSize, cols, VALUE_TYPES[valueDtype]]);
    return ops.fused('DequantizeFourBit', [tensors.codes, codesOf(ops, dtype), ofBlocks, place], [], 1)[0];
  }
  const table = fourBitTable(ops, dtype);
  const scales = ops.reshape(ofBlocks, [blocks, 1, 1]);
  if (last - first === rows * cols && blocks * blockSize === rows * cols) {
    const pairs = ops.view(tensors.codes, 'pairs', () =>
      ops.reshape(ops.bitcast(words32(ops, tensors.codes), DataType.uint16), [blocks, blockSize / 4]),
    );
    const normal = ops.gather(table, ops.cast(pairs, DataType.int32)); // [blocks, blockSize / 4, 4]
    return rounded(ops, ops.reshape(ops.mul(normal, scales), [rows, cols]), valueDtype);
  }
  const words = part(ops, words32(ops, tensors.codes), from / 8, Math.ceil(to / 8));
  const pairs = ops.cast(ops.bitcast(words, DataType.uint16), DataType.int32); // [words, 2]
  let normal = ops.gather(table, pairs); // [words, 2, 4]
  const missing = blocks * blockSize - 8 * words.shape[0];
  if (missing !== 0) normal = ops.padEnd(ops.reshape(normal, [8 * words.shape[0]]), [missing]);
  const values = ops.mul(ops.reshape(normal, [blocks, blockSize / 4, 4]), scales);
  if (blocks * blockSize === last - first)
    return rounded(ops, ops.reshape(values, [end - begin, cols]), valueDtype);
  const flat = ops.reshape(values, [blocks * blockSize]);
  return rounded(
    ops,
    ops.reshape(ops.slice(flat, [first - from], [last - first]), [end - begin, cols]),
    valueDtype,
  );
}

/** Numbers of the types in native/dequantize.cc. */
const VALUE_TYPES: Record<StorageDtype, number> = {float32: 0, bfloat16: 1, float16: 2};

function rounded(ops: Ops, values: Handle, dtype: StorageDtype): Handle {
  return dtype === 'float32' ? values : ops.cast(ops.cast(values, DataType[dtype]), DataType.float32);
}

/** Returns the scales of blocks `begin` to `end`. */
function blockScales(
  ops: Ops,
  tensors: QuantizedHandles,
  {nestedBlockSize, offset, rows, cols, blockSize}: Omit<FourBitMatrix, 'tensors'>,
  begin: number,
  end: number,
): Handle {
  if (nestedBlockSize === 0) return part(ops, tensors.absmax, begin, end);
  const blocks = Math.ceil((rows * cols) / blockSize);
  if (end - begin === blocks && blocks % nestedBlockSize === 0 && nestedBlockSize % 4 === 0) {
    const nestedBlocks = blocks / nestedBlockSize;
    const codes = ops.view(tensors.absmaxCodes, 'bytes', () =>
      ops.reshape(ops.bitcast(words32(ops, tensors.absmaxCodes), DataType.uint8), [
        nestedBlocks,
        nestedBlockSize,
      ]),
    );
    const nested = ops.view(tensors.nestedAbsmax, 'column', () =>
      ops.reshape(tensors.nestedAbsmax, [nestedBlocks, 1]),
    );
    const normal = ops.gather(tensors.map, ops.cast(codes, DataType.int32));
    return ops.add(ops.mul(normal, nested), ops.scalar(offset));
  }
  const [first, last] = [Math.floor(begin / nestedBlockSize), Math.ceil(end / nestedBlockSize)];
  const word = Math.floor(begin / 4);
  const words = part(ops, words32(ops, tensors.absmaxCodes), word, Math.ceil(end / 4));
  const bytes = part(ops, flatten(ops, ops.bitcast(words, DataType.int8)), begin - 4 * word, end - 4 * word);
  const codes = ops.cast(ops.bitcast(bytes, DataType.uint8), DataType.int32);
  const nested = ops.reshape(part(ops, tensors.nestedAbsmax, first, last), [last - first, 1]);
  const repeated = ops.one('Tile', [nested, ops.integers([1, nestedBlockSize])]);
  const from = first * nestedBlockSize;
  const scales = part(ops, flatten(ops, repeated), begin - from, end - from);
  return ops.add(ops.mul(ops.gather(tensors.map, codes), scales), ops.scalar(offset));
}

function int8Rows(
  ops: Ops,
  tensors: QuantizedHandles,
  {cols, outliers, outlierDtype}: Omit<Int8Matrix, 'tensors'>,
  begin: number,
  end: number,
): Handle {
  const [first, last] = [begin * cols, end * cols];
  const word = Math.floor(first / 4);
  const words = part(ops, words32(ops, tensors.codes), word, Math.ceil(last / 4));
  const bytes = flatten(ops, ops.bitcast(words, DataType.int8));
  const cut = part(ops, bytes, first - 4 * word, last - 4 * word);
  const codes = ops.cast(ops.reshape(cut, [end - begin, cols]), DataType.float32);
  const scales = ops.reshape(part(ops, tensors.scales, begin, end), [end - begin, 1]);
  const values = ops.mul(ops.mul(codes, scales), ops.scalar(ONE_OF_127));
  if (outliers === 0) return values;
  const kept = widen16(ops, tensors.outlierValues, outlierDtype, outliers, begin, end); // [end − begin, outliers]
  const index = ops.cast(tensors.outlierIndex, DataType.float32); // exact; integers would be compared on the host
  const place = ops.cast(ops.one('Relu', [index]), DataType.int32);
  return ops.where(ops.one('GreaterEqual', [index, ops.scalar(0)]), ops.gather(kept, place, 1), values);
}

/**
 * Reads the words as float32, whose bits nothing changes, because on a card TensorFlow slices neither int32 nor uint8.
 */
function words32(ops: Ops, packed: Handle): Handle {
  return ops.bitcast(packed, DataType.float32);
}

/** Returns elements `begin` to `end` of a vector. */
function part(ops: Ops, vector: Handle, begin: number, end: number): Handle {
  return begin === 0 && end === vector.shape[0] ? vector : ops.slice(vector, [begin], [end - begin]);
}

function flatten(ops: Ops, x: Handle): Handle {
  return ops.reshape(x, [x.shape.reduce((product, size) => product * size, 1)]);
}
