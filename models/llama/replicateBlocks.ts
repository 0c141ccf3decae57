import {sharedCopy} from '../../layers/sharedCopy.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import type {LayerRange} from '../replaceLayer.ts';
import type {DecoderBlock} from './decoderBlock.ts';

/**
 * Returns the blocks of ranges in a row, as PEFT's `layer_replication`. They share their weights with the given ones, and
 * are named and numbered by their new places.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an impossible range; `UNSUPPORTED` for blocks that differ by their place,
 *   such as those with and without a window
 */
export function replicateBlocks(blocks: DecoderBlock[], ranges: readonly LayerRange[]): DecoderBlock[] {
  const isPlace = (place: unknown) => Number.isInteger(place) && (place as number) >= 0;
  const isRange = (range: unknown) =>
    Array.isArray(range) &&
    range.length === 2 &&
    range.every(isPlace) &&
    range[0] < range[1] &&
    range[1] <= blocks.length;
  if (!Array.isArray(ranges) || ranges.length === 0 || !ranges.every(isRange)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `LoRA layerReplication: expected ranges [start, end) of the ${blocks.length} layers, got ${show(ranges)}`,
    );
  }
  const [{self_attn: first, config}] = blocks;
  const listed = Object.entries(config).find(([, value]) => Array.isArray(value));
  if (listed || blocks.some(({self_attn: {window}}) => window !== first.window)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `LoRA layerReplication: expected a model whose layers are all of one kind, got ${listed?.[0] ?? 'windows in some'}`,
    );
  }
  const places = ranges.flatMap(([start, end]) => Array.from({length: end - start}, (_, i) => start + i));
  return places.map((from, to) => {
    const old = blocks[from];
    if (from === to) return old;
    const block = sharedCopy(old, (name) => name.replace(old.name, old.name.replace(/\d+$/, String(to))));
    Object.assign(block, {layerIndex: to});
    Object.assign(block.self_attn, {layerIndex: to});
    return block;
  });
}
