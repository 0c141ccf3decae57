import type {StoredFormat, StoredTensors} from '../../../ops/storedMatrix.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {type ReadableWeight, readableWeight, type Use} from './usingWeight.ts';
import type {Multiplier} from './weightFormat.ts';

/** Weights that several products read one after another, each for other rows, so that they are written only once. */
export class SharedWeights {
  private readonly forward = new Map<StoredTensors, ReadableWeight>();
  private readonly backward = new Map<StoredTensors, ReadableWeight>();

  constructor(private readonly backend: WebGPUBackend) {}

  /** Returns a weight as products with the first rows read it. */
  of(inputs: StoredTensors, attributes: StoredFormat, use: Use): Multiplier {
    const known = use.transposeWeight ? this.forward : this.backward;
    const weight = known.get(inputs) ?? readableWeight(this.backend, inputs, attributes, use);
    known.set(inputs, weight);
    return weight.multiplier;
  }

  dispose(): void {
    for (const {written} of [...this.forward.values(), ...this.backward.values()])
      if (written) this.backend.disposeData(written.dataId);
  }
}
