import {join} from 'node:path';
import {parseArgs} from 'node:util';
import {similarName} from '../../quant/errors.ts';
import {TfjsLoraError} from '../../src/index.ts';

const OPTIONS = {
  model: {type: 'string', default: join(import.meta.dirname, 'model')},
  out: {type: 'string', default: join('out', 'quickstart')},
  backend: {type: 'string', default: 'auto'},
  rank: {type: 'string', default: '8'},
  epochs: {type: 'string', default: '2'},
  'batch-size': {type: 'string', default: '8'},
  'learning-rate': {type: 'string', default: '1e-2'},
  'train-bills': {type: 'string', default: '600'},
  'held-out-bills': {type: 'string', default: '48'},
  seed: {type: 'string', default: '0'},
  qlora: {type: 'boolean', default: false},
} as const;

/** Settings of the quickstart, from its command line: `--rank 16 --epochs 3`. */
export interface QuickstartSettings {
  model: string;
  out: string;
  backend: string;
  rank: number;
  epochs: number;
  batchSize: number;
  learningRate: number;
  trainBills: number;
  heldOutBills: number;
  seed: number;
  qlora: boolean;
}

/**
 * Reads the settings.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the nearest setting, or the value that is no number
 */
export function readSettings(args: string[]): QuickstartSettings {
  const {values} = parsed(args);
  const number = (name: keyof typeof OPTIONS, least: number, isWhole = true): number => {
    const value = Number(values[name]);
    if (value >= least && (Number.isSafeInteger(value) || (!isWhole && Number.isFinite(value)))) return value;
    throw mistake(`--${name}`, `a ${isWhole ? 'whole ' : ''}number of at least ${least}`, `${values[name]}`);
  };
  return {
    model: values.model,
    out: values.out,
    backend: values.backend,
    rank: number('rank', 1),
    epochs: number('epochs', 1),
    batchSize: number('batch-size', 1),
    learningRate: number('learning-rate', 0, false),
    trainBills: number('train-bills', 1),
    heldOutBills: number('held-out-bills', 1),
    seed: number('seed', 0),
    qlora: values.qlora,
  };
}

function parsed(args: string[]) {
  try {
    return parseArgs({args, options: OPTIONS});
  } catch (error) {
    const {message} = error as Error;
    const name = /^Unknown option '--?([^']*)'/.exec(message)?.[1];
    const names = Object.keys(OPTIONS);
    const similar = name && similarName(name, names);
    const advice = similar ? ` Did you mean --${similar}?` : '';
    throw mistake(
      'settings',
      names.map((each) => `--${each}`).join(', '),
      message.split('. ')[0].replace(/^./, (letter) => letter.toLowerCase()),
      advice,
    );
  }
}

function mistake(what: string, expected: string, got: string, advice = ''): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `quickstart ${what}: expected ${expected}, got ${got}.${advice}`,
  );
}
