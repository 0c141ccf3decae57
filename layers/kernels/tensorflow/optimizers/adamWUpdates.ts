import {adamWUpdatesOp} from '../../../ops/adamWUpdates.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Handle} from '../device/tensorflowBackend.ts';
import {fusedAdamW, nextAdamW} from './adamWUpdate.ts';
import {groupedByShape} from './groupedByShape.ts';

/** `AdamWUpdates` (layers/ops/adamWUpdates.ts): small variables of one shape are updated as one tensor. */
export const adamWUpdates = opsKernel(adamWUpdatesOp, (ops, given, settings) => {
  if (ops.areFusedEverywhere) return fusedAdamW(ops, given, settings);
  const results: Handle[] = [];
  for (const places of groupedByShape(given.filter((_, i) => i % 4 === 0))) {
    const next = ops.keepOnly(() => {
      const parts = [0, 1, 2, 3].map((part) => places.map((place) => given[4 * place + part]));
      if (places.length === 1) return nextAdamW(ops, parts.flat(), settings);
      return nextAdamW(
        ops,
        parts.map((part) => ops.stack(part)),
        settings,
      ).flatMap((part) => ops.unstack(part));
    });
    for (const [i, handle] of next.entries()) {
      const place = places[i % places.length];
      results[3 * place + Math.floor(i / places.length)] = handle;
    }
  }
  return results;
});
