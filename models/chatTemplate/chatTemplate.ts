import {Environment, Template} from '@huggingface/jinja';
import {TfjsLoraError} from '../../quant/errors.ts';
import {BoundedInterpreter, TemplateLimitError} from './boundedInterpreter.ts';
import {type RuntimeValue, toRuntimeValue} from './runtimeValue.ts';
import {strftime} from './strftime.ts';

/** Maximum length of a template in characters. Those of published models have about fifty thousand at most. */
const MOST_CHARACTERS = 2 ** 19;
/** A long run of spaces, which the package's lexer scans again from each space. */
const LONG_SPACE = /\s{1000}/;
/** Maximum length of a `range`, as in Jinja's sandbox, which transformers uses. */
const MOST_RANGE = 100_000;

/**
 * A chat template in Jinja, rendered as transformers renders it. It comes with a model and is not trusted: it cannot
 * run for ever, fill the memory or access anything but its variables.
 */
export class ChatTemplate {
  private readonly program: Template['parsed'];

  /**
   * @param where names the file and key in errors
   * @throws TfjsLoraError `CORRUPT_FILE` when it is not a valid template
   */
  constructor(
    text: string,
    private readonly where: string,
  ) {
    if (text.length > MOST_CHARACTERS)
      throw this.corrupt(`a template of at most ${MOST_CHARACTERS} characters, got ${text.length}`);
    if (LONG_SPACE.test(text)) throw this.corrupt('a template without a thousand spaces in a row');
    try {
      this.program = new Template(text).parsed;
    } catch (cause) {
      throw this.corrupt(`a Jinja template, got one that does not parse: ${(cause as Error).message}`, cause);
    }
  }

  /**
   * Renders the template.
   *
   * @param variables plain data, by the names that the template uses
   * @throws TfjsLoraError `INVALID_ARGUMENT` when the template refuses the messages; `CORRUPT_FILE` when it exceeds its
   *   limits
   */
  render(variables: Record<string, unknown>): string {
    const size = {values: 0, characters: 0};
    try {
      const environment = globals();
      for (const [name, value] of Object.entries(variables))
        define(environment, name, toRuntimeValue(value, size));
      const interpreter = new BoundedInterpreter(environment, size);
      return interpreter.evaluate(this.program as never, environment).value as string;
    } catch (cause) {
      const message = (cause as Error).message.slice(0, 1000);
      if (cause instanceof TemplateLimitError) throw this.corrupt(message.replace(/^expected /, ''), cause);
      if (cause instanceof RangeError)
        throw this.corrupt(`a template that fits into the memory, got: ${message}`, cause);
      throw new TfjsLoraError('INVALID_ARGUMENT', `chat template messages: ${message}`, {cause});
    }
  }

  private corrupt(expected: string, cause?: unknown): TfjsLoraError {
    return new TfjsLoraError('CORRUPT_FILE', `${this.where}: expected ${expected}`, {cause});
  }
}

function globals(): Environment {
  const environment = new Environment();
  for (const [name, value] of Object.entries({true: true, false: false, none: null})) {
    environment.set(name, value);
    environment.set(name[0].toUpperCase() + name.slice(1), value);
  }
  environment.set('raise_exception', (message: unknown) => {
    throw new Error(String(message));
  });
  environment.set('range', range);
  environment.set('strftime_now', (format: unknown) => strftime(new Date(), String(format)));
  return environment;
}

function define(environment: Environment, name: string, value: RuntimeValue): void {
  environment.setVariable(name, value as never);
}

/** Returns the numbers of Python's `range`. */
function range(...args: unknown[]): number[] {
  const [start, stop, step = 1] = args.length === 1 ? [0, args[0]] : args;
  const isWhole = [start, stop, step].every(Number.isSafeInteger);
  if (!isWhole || args.length > 3)
    throw new Error(`expected whole numbers for range, got ${args.join(', ')}`);
  if (step === 0) throw new Error('expected a step of range other than 0');
  const [from, to, by] = [start, stop, step] as number[];
  const length = Math.max(0, Math.ceil((to - from) / by));
  if (length > MOST_RANGE)
    throw new TemplateLimitError(`expected a range of at most ${MOST_RANGE} numbers, got ${length}`);
  return Array.from({length}, (_, i) => from + i * by);
}
