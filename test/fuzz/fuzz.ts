import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {Dice} from './mutate.ts';

/** What is fuzzed: one reader of files that may come from anyone. */
export interface Target<Input> {
  /** Makes a damaged file. */
  draw(dice: Dice): Input;
  /** Reads it: a `TfjsLoraError` is as good as a result. */
  read(input: Input): unknown;
}

/** Seconds for one target: it then stops early, with what it has tried. All of them together, in two workers, take two minutes at most. */
const MOST_SECONDS = 6;

/**
 * Reads `count` damaged files. Each must be read or refused by a typed error with a message of bounded length, must change
 * no object's prototype, and leave no tensor behind.
 *
 * @param seed of the files; an error names it with the file's number: `TFJS_LORA_FUZZ_SEED=<seed>` tries another
 * @returns how many files were tried
 */
export async function fuzz<Input>(name: string, target: Target<Input>, count: number): Promise<number> {
  const seed = process.env.TFJS_LORA_FUZZ_SEED ?? '1';
  const warnings = setWarningHandler(() => {});
  const ends = performance.now() + MOST_SECONDS * 1000;
  const clean = prototypes();
  let tried = 0;
  try {
    for (; tried < count && performance.now() < ends; tried++) {
      const input = target.draw(new Dice(`${name} ${seed} ${tried}`));
      const before = tf.memory().numTensors;
      const fault = await faultOf(() => target.read(input));
      const left = tf.memory().numTensors - before;
      const found =
        fault ??
        (left !== 0 ? `${left} tensors left behind` : undefined) ??
        (prototypes() !== clean ? 'a prototype was changed' : undefined);
      if (found) throw new Error(`${name}, seed ${seed}, file ${tried}: ${found}\n${textOf(input)}`);
    }
  } finally {
    setWarningHandler(warnings);
  }
  return tried;
}

async function faultOf(read: () => unknown): Promise<string | undefined> {
  try {
    await read();
    return undefined;
  } catch (error) {
    if (!(error instanceof TfjsLoraError))
      return `expected a TfjsLoraError, got ${(error as Error)?.stack ?? error}`;
    return error.message.length > 20_001 ? `a message of ${error.message.length} characters` : undefined;
  }
}

/** Names of what every object, list and function has. */
const prototypes = (): string =>
  [Object.prototype, Array.prototype, Function.prototype]
    .map((each) => Object.getOwnPropertyNames(each).join())
    .join(';');

function textOf(input: unknown): string {
  const text = input instanceof Uint8Array ? `bytes ${Buffer.from(input).toString('base64')}` : String(input);
  return text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
}
