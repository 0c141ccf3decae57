import './loadedCopies.ts';
import {maskSecrets} from './maskSecrets.ts';
import {show} from './show.ts';

/** The kind of mistake that an error reports. Codes are stable, so that callers can branch on them. */
export type ErrorCode =
  | 'INVALID_ARGUMENT' // a value the caller passed is outside what the function accepts
  | 'SHAPE_MISMATCH' // a tensor's shape or dtype is not the one that is needed
  | 'FILE_NOT_FOUND' // a file or folder that must exist does not
  | 'NETWORK' // a host cannot be reached, breaks off, or answers with an error; trying again later may help
  | 'CORRUPT_FILE' // a file exists, but its contents contradict its format
  | 'INVALID_CONFIG' // config.json, adapter_config.json, a recipe: a key is missing, unknown or impossible
  | 'MISSING_TENSOR' // a model or adapter lacks a tensor the model needs
  | 'UNEXPECTED_TENSOR' // a model or adapter has a tensor the model has no place for
  | 'NON_FINITE' // NaN or infinity where numbers are needed
  | 'UNKNOWN_TARGET' // a LoRA target names no layer
  | 'UNKNOWN_ADAPTER' // no adapter of this name was added
  | 'UNSUPPORTED' // a feature or combination that the library does not support
  | 'VOCABULARY_MISMATCH' // a token id, tokenizer and embedding disagree
  | 'DISPOSED' // a model, layer or tensor was used after dispose()
  | 'DISK_FULL' // there is no room for a file on its disk
  | 'INSUFFICIENT_MEMORY' // a run will not fit into the memory it may use
  | 'BACKEND_UNAVAILABLE' // the requested backend cannot run here
  | 'DEVICE_LOST' // the graphics card stopped, or ran out of memory
  | 'RANK_LOST' // another process of a training on several cards ended, or does not answer
  | 'RANKS_DISAGREE'; // the processes of a training have different recipes, data, weights or versions

/** Characters of a message. A hostile file could make a message of any length, so longer ones are cut. */
const MAX_MESSAGE = 20_000;

/**
 * The error that this library throws for bad input. `message` reads
 * `[what] [which]: expected …, got …. [what to do]`; `code` is stable. Credentials and tokens are masked in the
 * message and in the message of its cause.
 *
 * @example
 * ```ts
 * import {Llama, TfjsLoraError} from 'tfjs-lora';
 *
 * try {
 *   await Llama.fromPretrained('no-such-folder');
 * } catch (error) {
 *   if (!(error instanceof TfjsLoraError) || error.code !== 'FILE_NOT_FOUND') throw error;
 *   console.error(error.message);
 * }
 * ```
 */
export class TfjsLoraError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(maskedMessage(message), maskCause(options));
    this.name = 'TfjsLoraError';
  }
}

/** Masks the message before it is cut, because the cut may fall inside a secret. */
function maskedMessage(message: string): string {
  const masked = maskSecrets(message.slice(0, 2 * MAX_MESSAGE));
  return masked.length > MAX_MESSAGE ? `${masked.slice(0, MAX_MESSAGE)}…` : masked;
}

function maskCause(options: ErrorOptions | undefined): ErrorOptions | undefined {
  const cause = options?.cause;
  if (!(cause instanceof Error)) return options;
  const message = maskSecrets(cause.message);
  if (message === cause.message) return options;
  const masked = new Error(message);
  masked.name = cause.name;
  return {cause: masked};
}

/** Only this many characters of a name are compared, from its beginning. */
const COMPARED_LENGTH = 128;

/** Table cells that one call may fill, in about a fifth of a second. Names that need more are not compared. */
const MAX_CELLS = 50_000_000;

/**
 * Returns the names in `known` closest to `name` by edit distance, nearest first, for "did you mean". The time it takes
 * is bounded for any number of names of any length.
 *
 * @param name the name to look for. Any other value, as a file may hold, is compared as `show` writes it
 */
export function nearestNames(name: unknown, known: Iterable<string>, count = 3): string[] {
  const wanted = (typeof name === 'string' ? name : show(name)).slice(0, COMPARED_LENGTH);
  const nearest: {candidate: string; distance: number}[] = [];
  let cells = 0;
  for (const candidate of new Set(known)) {
    const limit = nearest.length < count ? Number.POSITIVE_INFINITY : nearest[nearest.length - 1].distance;
    const compared = candidate.slice(0, COMPARED_LENGTH);
    if (Math.abs(compared.length - wanted.length) > limit) continue;
    const [left, right] = withoutCommonEnds(wanted, compared);
    if (cells + left.length * right.length > MAX_CELLS) continue;
    cells += left.length * right.length;
    const distance = editDistance(left, right, limit);
    if (distance > limit) continue;
    let at = nearest.length;
    while (at > 0 && isBefore({candidate, distance}, nearest[at - 1])) at--;
    nearest.splice(at, 0, {candidate, distance});
    nearest.length = Math.min(nearest.length, count);
  }
  return nearest.map(({candidate}) => candidate);
}

/**
 * Returns the name in `known` that was probably meant by `name`: less than half of it differs, it has the same letters
 * in another order, or one of the two begins with the other. Undefined without one, and for an empty name.
 */
export function similarName(name: string, known: Iterable<string>): string | undefined {
  const [nearest] = name === '' ? [] : nearestNames(name, known, 1);
  if (nearest === undefined || Math.max(name.length, nearest.length) > COMPARED_LENGTH) return undefined;
  const limit = Math.max(1, Math.ceil(name.length / 2) - 1);
  const isSimilar =
    nearest.startsWith(name) ||
    name.startsWith(nearest) ||
    lettersOf(name) === lettersOf(nearest) ||
    editDistance(name, nearest, limit) <= limit;
  return isSimilar ? nearest : undefined;
}

const lettersOf = (name: string): string => [...name].sort().join('');

/** Returns advice for an unknown name: ` Did you mean rank?`, if a known one is like it; otherwise nothing. */
export function didYouMean(name: unknown, known: Iterable<string>): string {
  const similar = typeof name === 'string' ? similarName(name, known) : undefined;
  return similar === undefined ? '' : ` Did you mean ${similar}?`;
}

type Ranked = {candidate: string; distance: number};

function isBefore(a: Ranked, b: Ranked): boolean {
  return a.distance < b.distance || (a.distance === b.distance && a.candidate.localeCompare(b.candidate) < 0);
}

/** Drops the common beginning and end of two texts, which do not change their distance. */
function withoutCommonEnds(a: string, b: string): [string, string] {
  const shorter = Math.min(a.length, b.length);
  let start = 0;
  while (start < shorter && a.charCodeAt(start) === b.charCodeAt(start)) start++;
  let end = 0;
  while (end < shorter - start && a.charCodeAt(a.length - 1 - end) === b.charCodeAt(b.length - 1 - end)) {
    end++;
  }
  return [a.slice(start, a.length - end), b.slice(start, b.length - end)];
}

const row = new Uint16Array(COMPARED_LENGTH + 1);

/** Returns the edit distance of two texts, or some number above `limit` when it exceeds `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  for (let j = 0; j <= b.length; j++) row[j] = j;
  for (let i = 1; i <= a.length; i++) {
    const letter = a.charCodeAt(i - 1);
    let diagonal = i - 1;
    let left = i;
    let least = i;
    row[0] = i;
    for (let j = 1; j <= b.length; j++) {
      const substitution = diagonal + (letter === b.charCodeAt(j - 1) ? 0 : 1);
      diagonal = row[j];
      left = Math.min(diagonal + 1, left + 1, substitution);
      row[j] = left;
      least = Math.min(least, left);
    }
    if (least > limit) return least;
  }
  return row[b.length];
}
