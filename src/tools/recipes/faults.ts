import {type ErrorCode, TfjsLoraError} from '../../../quant/errors.ts';

/** Collects the faults of a recipe, to report them in one error in the order of the file. */
export class Faults {
  private readonly found: {key: string; message: string; code: ErrorCode}[] = [];

  constructor(private readonly order: readonly string[]) {}

  add(key: string, message: string, code: ErrorCode = 'INVALID_CONFIG'): void {
    this.found.push({key, message, code});
  }

  /** @throws TfjsLoraError `UNSUPPORTED` when every fault is a missing feature, otherwise `INVALID_CONFIG` */
  throwIfAny(): void {
    if (this.found.length === 0) return;
    const place = ({key}: {key: string}) =>
      (this.order.indexOf(key) + this.order.length + 1) % (this.order.length + 1);
    const sorted = this.found.toSorted((a, b) => place(a) - place(b));
    const isUnsupported = sorted.every(({code}) => code === 'UNSUPPORTED');
    const messages = new Set(sorted.map(({message}) => message));
    throw new TfjsLoraError(isUnsupported ? 'UNSUPPORTED' : 'INVALID_CONFIG', [...messages].join('\n'));
  }
}
