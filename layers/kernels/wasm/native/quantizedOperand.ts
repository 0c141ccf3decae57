import type * as tf from '@tensorflow/tfjs';
import {FP4_CODE, NF4_CODE} from '../../../../quant/blockwise/codebooks.ts';
import {type DeviceFormat, type GroupedMatrix, groupGrid} from '../../../ops/quantizedMatrix.ts';
import {memoryOf, offsetOf, type WasmBackend} from '../wasmBackend.ts';
import {ELEMENT_TYPES} from './gemm.ts';

const WORDS = 22;
/** Numbers of the code types of a matrix in groups, as quantized.h has them. */
const CODE_TYPES: Record<GroupedMatrix['codeType'], number> = {uint4: 2, uint8: 3, e4m3: 4};
const BOOK_BYTES = 64;

interface Scratch {
  description: number;
  books: Record<'nf4' | 'fp4', number>;
}

// Stored on the backend, so that two copies of this file (ES module and CommonJS) use one.
const KEY = Symbol.for('tfjs-lora.wasm.quantized');

/**
 * Describes a quantized matrix as quantized.h reads it.
 *
 * @returns the description's address, which is valid until the next call
 */
export function writeQuantized(
  backend: WasmBackend,
  attributes: DeviceFormat,
  inputs: Partial<Record<string, tf.TensorInfo>>,
): number {
  const {description, books} = scratchOf(backend);
  const address = (name: string) => {
    const tensor = inputs[name];
    return tensor ? offsetOf(backend, tensor) : 0;
  };
  const words = new Int32Array(memoryOf(backend).buffer, description, WORDS).fill(0);
  words[0] = address('codes');
  words[11] = attributes.cols;
  if (attributes.dtype === 'int8') {
    words[1] = address('scales');
    words[6] = address('outlierIndex');
    words[7] = address('outlierValues');
    words[12] = 2 * Math.ceil(attributes.outliers / 2);
    words[13] = ELEMENT_TYPES[attributes.outlierDtype];
    words[14] = 1;
    return description;
  }
  if (attributes.dtype === 'grouped') {
    words[1] = address('scales');
    words[14] = CODE_TYPES[attributes.codeType];
    words[15] = ELEMENT_TYPES[attributes.valueDtype];
    words[16] = address('zeros');
    words[17] = address('groupIndex');
    words[18] = attributes.groupRows;
    words[19] = attributes.groupCols;
    words[20] = groupGrid(attributes)[1];
    return description;
  }
  words[1] = address('absmax');
  words[2] = address('absmaxCodes');
  words[3] = address('nestedAbsmax');
  words[4] = address('map');
  words[5] = books[attributes.dtype];
  new Float32Array(words.buffer, description, WORDS)[8] = attributes.offset;
  words[9] = attributes.blockSize;
  words[10] = attributes.nestedBlockSize;
  words[15] = ELEMENT_TYPES[attributes.valueDtype];
  return description;
}

function scratchOf(backend: WasmBackend): Scratch {
  const holder = backend as WasmBackend & {[KEY]?: Scratch};
  holder[KEY] ??= {
    description: backend.wasm._malloc(4 * WORDS) >>> 0,
    books: {nf4: writeBook(backend, NF4_CODE), fp4: writeBook(backend, FP4_CODE)},
  };
  return holder[KEY];
}

/** Writes all first bytes of the 16 numbers, then all second ones and so on, as byte-wise look-ups need them. */
function writeBook(backend: WasmBackend, numbers: Readonly<Float32Array>): number {
  const offset = backend.wasm._malloc(BOOK_BYTES) >>> 0;
  const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
  const target = new Uint8Array(memoryOf(backend).buffer, offset, BOOK_BYTES);
  for (let i = 0; i < 16; i++)
    for (let plane = 0; plane < 4; plane++) target[16 * plane + i] = bytes[4 * i + plane];
  return offset;
}
