import {TfjsLoraError} from '../../../quant/index.ts';

/** Returns the error that a call throws or rejects with. Fails unless it is a TfjsLoraError. */
export async function thrownBy(call: () => unknown): Promise<TfjsLoraError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof TfjsLoraError) return error;
    throw error;
  }
  throw new Error('expected a TfjsLoraError, got no error');
}
