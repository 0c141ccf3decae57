import {dynamicMap} from '../../../quant/blockwise/codebooks.ts';
import {dequantizeBlockwise, quantizeBlockwise} from '../../../quant/blockwise/dynamic8Bit.ts';
import {STATE_BLOCK_SIZE} from '../../ops/blockwise8bit.ts';
import type {StepArray} from './optimizerStep.ts';

/** Number of values dequantized at a time: whole blocks that stay in the processor's cache. */
const CHUNK = 64 * STATE_BLOCK_SIZE;

/** An 8-bit state of a weight, read and written a chunk at a time. */
export class Blockwise8bitChunks {
  /** The values of the chunk that {@link load} read, to be changed in place. */
  readonly values: Float32Array;
  private readonly map: Float32Array;
  private readonly codes: Uint8Array;
  private readonly nextCodes: Uint8Array;

  /** @param name the state's name, for messages */
  constructor(
    private readonly name: string,
    signed: boolean,
    private readonly source: {codes: StepArray; absmax: StepArray},
    private readonly target: {codes: StepArray; absmax: StepArray},
    size: number,
  ) {
    this.map = dynamicMap(signed);
    this.codes = bytesOf(source.codes);
    this.nextCodes = bytesOf(target.codes);
    this.nextCodes.fill(0, size); // the last word's unused bytes
    this.values = new Float32Array(Math.min(CHUNK, size));
  }

  load(begin: number, end: number): void {
    const blocks = {codes: this.codes.subarray(begin, end), absmax: absmaxOf(this.source, begin, end)};
    dequantizeBlockwise(blocks, {map: this.map}, this.values.subarray(0, end - begin));
  }

  /** @throws TfjsLoraError `NON_FINITE` */
  store(begin: number, end: number): void {
    quantizeBlockwise(this.values.subarray(0, end - begin), {
      map: this.map,
      name: this.name,
      codes: this.nextCodes.subarray(begin, end),
      absmax: absmaxOf(this.target, begin, end),
    });
  }
}

/** Calls `run` with the bounds of one chunk after another. */
export function eachChunk(size: number, run: (begin: number, end: number) => void): void {
  for (let begin = 0; begin < size; begin += CHUNK) run(begin, Math.min(begin + CHUNK, size));
}

function bytesOf({buffer, byteOffset, byteLength}: StepArray): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function absmaxOf({absmax}: {absmax: StepArray}, begin: number, end: number): Float32Array {
  return absmax.subarray(begin / STATE_BLOCK_SIZE, Math.ceil(end / STATE_BLOCK_SIZE)) as Float32Array;
}
