import type * as tf from '@tensorflow/tfjs';
import {replaceKernel, replaceStockKernel} from '../replaceKernel.ts';
import {OPTIMIZER_STEPS} from '../steps/optimizerSteps.ts';
import {batchMatMul} from './batchMatMul.ts';
import {dequantizeRows} from './dequantizeRows.ts';
import {exp} from './exp.ts';
import {fusedMatMul} from './fusedMatMul.ts';
import {gatherV2} from './gatherV2.ts';
import {identity} from './identity.ts';
import {optimizerKernel} from './optimizerKernel.ts';
import {quantizedMatMul} from './quantizedMatMul.ts';
import {storedMatMul} from './storedMatMul.ts';
import {sum} from './sum.ts';
import {unpack16} from './unpack16.ts';
import {unsortedSegmentSum} from './unsortedSegmentSum.ts';

const KERNELS: tf.KernelConfig[] = [
  ...OPTIMIZER_STEPS.map(optimizerKernel),
  batchMatMul,
  dequantizeRows,
  fusedMatMul,
  quantizedMatMul,
  storedMatMul,
  unpack16,
  unsortedSegmentSum,
];

/** Kernels made from the stock kernel, which runs some inputs. */
const FASTER_KERNELS = [exp, gatherV2, identity, sum];

/**
 * Registers this library's kernels for the `wasm` backend, in place of stock ones of the same name. Import
 * `@tensorflow/tfjs-backend-wasm` first, because it registers its own when it loads. Calling this again is harmless.
 */
export function registerWasmKernels(): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
  for (const kernel of FASTER_KERNELS) replaceStockKernel(kernel);
}
