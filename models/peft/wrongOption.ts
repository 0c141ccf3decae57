import {TfjsLoraError} from '../../quant/errors.ts';

/** Returns the refusal of an option's value. */
export function wrongOption(what: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `LoRA ${what}: expected ${expected}, got ${got}`);
}
