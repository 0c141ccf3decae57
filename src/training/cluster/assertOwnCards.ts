import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {nodeModule} from '../backends/processor.ts';

/** The graphics card that a rank computes on through WebGPU. */
export interface UsedCard {
  host: string;
  /** Its name and identity; undefined if they are not known. */
  card?: string;
}

/** Returns the card that this process uses, or none on another backend and with a software driver, which ranks may share. */
export async function usedCard(): Promise<UsedCard | undefined> {
  const card = globalThis.process.env.TFJS_LORA_CHOSEN_CARD; // set by native/layer/choose_card.cc
  if (tf.getBackend() !== 'webgpu' || card === 'software') return undefined;
  const {hostname} = await nodeModule<typeof import('node:os')>('os');
  return {host: hostname(), card};
}

/**
 * Checks that no two ranks of a host compute on the same card through WebGPU.
 *
 * @param used each rank's card
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming two ranks and their card, `UNSUPPORTED` if cards cannot be told apart
 */
export function assertOwnCards(used: (UsedCard | null)[]): void {
  for (const [rank, own] of used.entries()) {
    const other = used.findIndex((each) => each && each.host === own?.host && each.card === own.card);
    if (!own || other === rank) continue;
    const expected = `webgpu rank ${other}, ${rank}: expected a card for each rank of a host, got`;
    if (own.card === undefined) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${expected} cards that cannot be told apart: this needs Vulkan on Linux. Start one rank on ${own.host}.`,
      );
    }
    const name = own.card.slice(0, own.card.lastIndexOf(' '));
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${expected} the same ${name} on ${own.host}. Start as many ranks as it has cards, or name a card for each rank: ` +
        "useBackend('webgpu', {adapter}).",
    );
  }
}
