/** What kind of mistake an error reports; stable, so that callers can branch on it. */
export type ErrorCode =
  | 'INVALID_ARGUMENT' // a value the caller passed is outside what the function accepts
  | 'SHAPE_MISMATCH' // a tensor's shape or dtype is not the one its place asks for
  | 'FILE_NOT_FOUND' // a file or folder that must exist does not
  | 'CORRUPT_FILE' // a file exists, but its contents contradict its format
  | 'INVALID_CONFIG' // config.json, adapter_config.json, a recipe: a key is missing, unknown or impossible
  | 'MISSING_TENSOR' // a checkpoint or adapter lacks a tensor the model needs
  | 'UNEXPECTED_TENSOR' // a checkpoint or adapter has a tensor the model has no place for
  | 'NON_FINITE' // NaN or infinity where numbers are needed
  | 'UNKNOWN_TARGET' // a LoRA target that names no layer
  | 'UNKNOWN_ADAPTER' // an adapter name that was never added
  | 'UNSUPPORTED' // a request that has a reason to be refused
  | 'VOCABULARY_MISMATCH' // a token id, tokenizer and embedding disagree
  | 'DISPOSED' // a model, layer or tensor used after dispose()
  | 'INSUFFICIENT_MEMORY' // a run that will not fit into the memory it may use
  | 'BACKEND_UNAVAILABLE' // the asked-for backend cannot run here
  | 'DEVICE_LOST'; // the graphics card stopped, or ran out of memory

/**
 * Every error this library raises for bad input. `message` reads
 * `[what] [which]: expected …, got …. [what to do]`; `code` is stable.
 */
export class TfjsLoraError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'TfjsLoraError';
  }
}

/** The names in `known` closest to `name` by edit distance, nearest first: for "did you mean". */
export function nearestNames(name: string, known: Iterable<string>, count = 3): string[] {
  return [...new Set(known)]
    .map((candidate) => ({candidate, distance: editDistance(name, candidate)}))
    .sort((a, b) => a.distance - b.distance || a.candidate.localeCompare(b.candidate))
    .slice(0, count)
    .map(({candidate}) => candidate);
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({length: b.length + 1}, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(previous[j] + 1, current[j - 1] + 1, substitution));
    }
    previous = current;
  }
  return previous[b.length];
}
