import type * as tf from '@tensorflow/tfjs';
import type {AdamWSettings} from '../../ops/adamWUpdate.ts';
import {fusedAdamW, nextAdamW} from './adamWUpdate.ts';
import {groupedByShape} from './groupedByShape.ts';
import {runOps} from './runOps.ts';
import type {Handle, TensorFlowBackend} from './tensorflowBackend.ts';

interface AdamWUpdatesArgs {
  /** Value, gradient, mean and variance of each variable in turn. */
  inputs: Record<number, tf.TensorInfo>;
  attrs: AdamWSettings;
  backend: unknown;
}

/** `AdamWUpdates` (layers/ops/adamWUpdates.ts): small variables of one shape are updated as one. */
export const adamWUpdates = {
  kernelName: 'AdamWUpdates',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as AdamWUpdatesArgs;
    const values = Object.values(inputs).filter((_, i) => i % 4 === 0);
    return runOps(backend as TensorFlowBackend, inputs as Record<string, tf.TensorInfo>, (ops, handles) => {
      if (ops.areFusedEverywhere) return fusedAdamW(ops, Object.values(handles), attrs);
      const results: Handle[] = [];
      for (const places of groupedByShape(values)) {
        const next = ops.keepOnly(() => {
          const parts = [0, 1, 2, 3].map((part) => places.map((place) => handles[4 * place + part]));
          if (places.length === 1) return nextAdamW(ops, parts.flat(), attrs);
          return nextAdamW(
            ops,
            parts.map((part) => ops.stack(part)),
            attrs,
          ).flatMap((part) => ops.unstack(part));
        });
        for (const [i, handle] of next.entries()) {
          const place = places[i % places.length];
          results[3 * place + Math.floor(i / places.length)] = handle;
        }
      }
      return results;
    });
  },
} as const;
