import {TfjsLoraError} from '../../../quant/index.ts';

/** The error a call throws or rejects with; fails unless it is a TfjsLoraError. */
export async function thrownBy(call: () => unknown): Promise<TfjsLoraError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof TfjsLoraError) return error;
    throw error;
  }
  throw new Error('expected a TfjsLoraError, got no error');
}
