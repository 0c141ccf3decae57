import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Ranks} from './ranks.ts';

/**
 * Checks that values are the same on all ranks.
 *
 * @param values texts by what they describe, as the message names it
 * @throws TfjsLoraError `RANKS_DISAGREE` on every rank, naming the first value that differs and the ranks that have
 *   another one than most
 */
export async function assertAlike(ranks: Ranks, values: Record<string, string>): Promise<void> {
  if (ranks.size === 1) return;
  const all = (await ranks.gather(JSON.stringify(values))).map(
    (text) => JSON.parse(text) as Record<string, string>,
  );
  for (const what of Object.keys(all[0])) {
    const usual = mostFrequent(all.map((each) => each[what]));
    const other = all.flatMap((each, rank) => (each[what] === usual ? [] : [rank]));
    if (other.length === 0) continue;
    const [rank] = other;
    throw new TfjsLoraError(
      'RANKS_DISAGREE',
      `rank ${other.join(', ')} ${what}: expected the same as on the other ranks, ${shortened(usual)}, ` +
        `got ${shortened(all[rank][what])}. Give every rank the same recipe, data, files and version.`,
    );
  }
}

/** Returns the value of most ranks; the first rank's counts more. */
function mostFrequent(values: string[]): string {
  const count = (value: string) => values.filter((each) => each === value).length;
  return values.reduce((best, value) => (count(value) > count(best) ? value : best));
}

const shortened = (text = 'none'): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text);
