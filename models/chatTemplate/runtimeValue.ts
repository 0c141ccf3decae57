import {Environment} from '@huggingface/jinja';
import {MAX_JSON_DEPTH} from '../pythonJson.ts';
import {entriesOf, PythonFloat} from '../pythonValue.ts';

/** A value in the interpreter of `@huggingface/jinja`. */
export interface RuntimeValue {
  type: string;
  value: unknown;
}

type RuntimeClass = new (value?: unknown) => RuntimeValue;

/** Returns the interpreter's class for a JavaScript value. The package does not export these classes. */
const classOf = (value: unknown) => new Environment().set('x', value).constructor as RuntimeClass;

const [NullValue, UndefinedValue, BooleanValue] = [classOf(null), classOf(undefined), classOf(true)];
const [IntegerValue, FloatValue, StringValue] = [classOf(1), classOf(0.5), classOf('')];
const [ArrayValue, ObjectValue] = [classOf([]), classOf({})];

export {ArrayValue, BooleanValue, ObjectValue, StringValue, UndefinedValue};

/** Size of a template's variables. */
export interface ValueSize {
  values: number;
  characters: number;
}

/**
 * Converts a value for the interpreter, with Python's numbers and order of keys.
 *
 * @param size counts what is converted
 * @throws Error for lists and objects nested too deep
 */
export function toRuntimeValue(value: unknown, size: ValueSize, depth = 0): RuntimeValue {
  if (depth > MAX_JSON_DEPTH)
    throw new Error(`expected values nested at most ${MAX_JSON_DEPTH} deep, got more`);
  size.values++;
  if (value === null) return new NullValue(null);
  switch (typeof value) {
    case 'undefined':
      return new UndefinedValue();
    case 'boolean':
      return new BooleanValue(value);
    case 'number':
      return Number.isInteger(value) ? new IntegerValue(value) : new FloatValue(value);
    case 'bigint':
      return new IntegerValue(value);
    case 'string':
      size.characters += value.length;
      return new StringValue(value);
    case 'object': {
      if (value instanceof PythonFloat) return new FloatValue(value.value);
      if (Array.isArray(value))
        return new ArrayValue(value.map((item) => toRuntimeValue(item, size, depth + 1)));
      const entries = entriesOf(value as object).map(([key, item]) => {
        size.characters += key.length;
        return [key, toRuntimeValue(item, size, depth + 1)] as const;
      });
      return new ObjectValue(new Map(entries));
    }
    default:
      throw new Error(`expected plain data, got a ${typeof value}`);
  }
}

/**
 * Converts an interpreter's value to one that `pythonText` and `writePythonJson` write as Python would.
 *
 * @throws Error for a function
 */
export function fromRuntimeValue({type, value}: RuntimeValue): unknown {
  switch (type) {
    case 'NullValue':
      return null;
    case 'UndefinedValue':
      return undefined;
    case 'FloatValue':
      return new PythonFloat(value as number);
    case 'ArrayValue':
    case 'TupleValue':
      return (value as RuntimeValue[]).map(fromRuntimeValue);
    case 'ObjectValue':
    case 'NamespaceValue':
    case 'KeywordArgumentsValue':
      return new Map(
        [...(value as Map<string, RuntimeValue>)].map(([key, item]) => [key, fromRuntimeValue(item)]),
      );
    case 'FunctionValue':
      throw new Error('expected a value, got a function');
    default:
      return value;
  }
}
