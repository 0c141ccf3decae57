import {type Environment, Interpreter} from '@huggingface/jinja';
import {writePythonJson} from '../pythonJson.ts';
import {pythonText} from '../pythonValue.ts';
import {
  ArrayValue,
  BooleanValue,
  fromRuntimeValue,
  ObjectValue,
  type RuntimeValue,
  StringValue,
  toRuntimeValue,
  UndefinedValue,
  type ValueSize,
} from './runtimeValue.ts';
import {STRING_METHODS} from './stringMethods.ts';

/** A node of a parsed template. */
interface Node {
  type: string;
  [part: string]: unknown;
}

/** The methods of the package's interpreter that this one overrides. The package declares some of them private. */
interface OpenInterpreter {
  evaluate(node: Node | undefined, environment: Environment): RuntimeValue;
  evaluateBlock(nodes: Node[], environment: Environment): RuntimeValue;
  applyFilter(operand: RuntimeValue, filter: Node, environment: Environment): RuntimeValue;
  evaluateArguments(args: Node[], environment: Environment): [RuntimeValue[], Map<string, RuntimeValue>];
}
const Base = Interpreter as unknown as new (environment: Environment) => OpenInterpreter;

/** Maximum number of steps, each about a tenth of a microsecond. More input allows more steps. */
const STEPS = {base: 2_000_000, perValue: 2000, perCharacter: 2};
/** Maximum number of characters in a text, or in all values of a list. More input allows more characters. */
const CHARACTERS = {base: 2 ** 22, perCharacter: 16};
/** Maximum nesting of expressions, blocks and macros. */
const MOST_DEPTH = 400;
/** Steps that native work counts as, for each item and each character. */
const COST = {
  mention: {item: 1 / 64, character: 1 / 8192},
  search: 1 / 1024,
  walk: 1 / 8,
  iteration: 10,
  unknownName: 20,
};

/** Filters that only read their list or text. */
const CHEAP_FILTERS = new Set(['length', 'first', 'last', 'list', 'safe', 'default']);

/** Nodes without output. Other statements write their own text, and expressions have their value written. */
const SILENT = new Set(['Set', 'Macro', 'Comment']);

/** Operators that the package evaluates differently from Python, or whose work grows with their operands. */
const OWN_OPERATORS = new Set(['~', '+', '==', '!=', 'in', 'not in']);

/** Filters whose output differs between the package and Python. */
const OWN_FILTERS = new Set(['tojson', 'string', 'join', 'indent', 'title', 'capitalize', 'trim']);

/** Filters that write their operand as text first, whatever it is. */
const TEXT_FILTERS = new Set(['trim', 'upper', 'lower', 'capitalize', 'title', 'replace']);

/** Filters that take an undefined operand for an empty list. */
const LIST_FILTERS = new Set(
  'length list join first last sort unique reverse map select selectattr reject rejectattr'.split(' '),
);

const capitalize = (text: string) => STRING_METHODS.capitalize(text) as string;

/** Property in which a list or dict keeps its number of characters, once counted. */
const CHARACTERS_OF = Symbol('characters');
type Counted = RuntimeValue & {[CHARACTERS_OF]?: number};

/** The error for a template that exceeds its limits. */
export class TemplateLimitError extends Error {}

/**
 * An interpreter for untrusted Jinja templates, bounded in steps, size and depth. It writes values as Python does
 * (`None`, `2.0`, lists), and keeps the text before `break` and `continue`.
 */
export class BoundedInterpreter extends Base {
  private steps: number;
  private depth = 0;
  private readonly mostCharacters: number;
  private readonly loopBodies = new WeakSet<Node[]>();
  /** The furthest that any pass of the innermost loop got. */
  private pass: 'none' | 'begun' | 'ended' = 'none';
  private readonly brokenLoops = new WeakSet<Environment>();
  /** The `break` or `continue` in progress, and the text written before it in the blocks that it left. */
  private control?: {error: unknown; isBreak: boolean; text: string};

  constructor(environment: Environment, input: ValueSize) {
    super(environment);
    this.steps = STEPS.base + STEPS.perValue * input.values + STEPS.perCharacter * input.characters;
    this.mostCharacters = CHARACTERS.base + CHARACTERS.perCharacter * input.characters;
  }

  /** @throws TemplateLimitError */
  override evaluate(node: Node | undefined, environment: Environment): RuntimeValue {
    if (++this.depth > MOST_DEPTH)
      throw new TemplateLimitError(
        `expected at most ${MOST_DEPTH} levels of expressions and macros, got more`,
      );
    this.spend(1);
    const value = node ? this.evaluateNode(node, environment) : super.evaluate(node, environment);
    this.spendOnMention(value);
    this.depth--; // not needed after an error, which ends the template or resets the depth
    return value;
  }

  private evaluateNode(node: Node, environment: Environment): RuntimeValue {
    switch (node.type) {
      case 'Known':
        return node.value as RuntimeValue;
      case 'Identifier': {
        const value = super.evaluate(node, environment);
        if (value.type === 'UndefinedValue') this.spend(COST.unknownName);
        return value;
      }
      case 'For':
        return this.evaluateLoop(node, environment);
      case 'Break':
      case 'Continue':
        return this.leaveBlock(node, environment);
      case 'Set':
      case 'FilterStatement':
        return this.evaluateCapture(node, environment);
      case 'FilterExpression': {
        const operand = this.evaluate(node.operand as Node, environment);
        return this.applyFilter(operand, node.filter as Node, environment);
      }
      case 'CallExpression':
        return this.evaluateCall(node, environment);
      case 'BinaryExpression':
        return this.evaluateBinary(node, environment);
      case 'Macro':
      case 'CallStatement':
        this.spend(nodesIn(node)); // the package searches all of them
        return super.evaluate(node, environment);
      case 'MemberExpression': {
        if ((node.property as Node).type !== 'SliceExpression') return super.evaluate(node, environment);
        const object = this.evaluate(node.object as Node, environment);
        this.spend(COST.walk * lengthOf(object));
        return super.evaluate({...node, object: known(object)}, environment);
      }
      default:
        return super.evaluate(node, environment);
    }
  }

  private evaluateCall(node: Node, environment: Environment): RuntimeValue {
    let callee = node.callee as Node;
    if (callee.type === 'MemberExpression' && (callee.property as Node).type !== 'SliceExpression') {
      const object = this.evaluate(callee.object as Node, environment);
      this.spend(COST.walk * lengthOf(object));
      if (object.type === 'StringValue' && isOwnMethod(callee))
        return this.callMethod(object, node, environment);
      callee = {...callee, object: known(object)};
    }
    const value = super.evaluate({...node, callee}, environment);
    this.spend(COST.walk * lengthOf(value));
    return value;
  }

  private callMethod(object: RuntimeValue, call: Node, environment: Environment): RuntimeValue {
    const name = methodName(call.callee as Node);
    const [args, named] = this.evaluateArguments(call.args as Node[], environment);
    const {maxsplit, ...others} = Object.fromEntries(named);
    const [other] = Object.keys(others);
    if (other !== undefined) throw new Error(`expected no argument ${other} for ${name}`);
    if (maxsplit) args[1] = maxsplit;
    const plain = Array.from(args, (arg) => arg && fromRuntimeValue(arg));
    const result = STRING_METHODS[name](object.value as string, ...plain);
    this.spend(COST.walk * (typeof result === 'number' ? 1 : result.length));
    return toRuntimeValue(result, {values: 0, characters: 0});
  }

  private evaluateLoop(node: Node, environment: Environment): RuntimeValue {
    this.loopBodies.add(node.body as Node[]);
    const given = node.iterable as Node;
    const isFiltered = given.type === 'SelectExpression';
    const items = this.evaluate((isFiltered ? given.lhs : given) as Node, environment);
    this.spend(COST.iteration * lengthOf(items));
    const iterable = isFiltered ? {...given, lhs: known(items)} : known(items);
    const outer = this.pass;
    this.pass = 'none';
    const written = super.evaluate({...node, iterable}, environment);
    // As in Jinja, `else` follows a loop in which no pass ran to its end.
    const isElse = (this.pass as string) === 'begun';
    this.pass = outer;
    if (!isElse) return written;
    return this.appended(written, this.evaluateBlock(node.defaultBlock as Node[], environment));
  }

  private leaveBlock(node: Node, environment: Environment): RuntimeValue {
    try {
      return super.evaluate(node, environment);
    } catch (error) {
      this.control = {error, isBreak: node.type === 'Break', text: ''};
      throw error;
    }
  }

  /** Evaluates a capture, whose text is lost when a loop inside it is left. */
  private evaluateCapture(node: Node, environment: Environment): RuntimeValue {
    try {
      return super.evaluate(node, environment);
    } catch (error) {
      if (this.control !== undefined && error === this.control.error) this.control.text = '';
      throw error;
    }
  }

  /** Evaluates `~`, `+`, `==` and `!=` as Python does; the package treats values as JavaScript writes them. */
  private evaluateBinary(node: Node, environment: Environment): RuntimeValue {
    const operator = (node.operator as {value: string}).value;
    if (!OWN_OPERATORS.has(operator)) return super.evaluate(node, environment);
    const left = this.evaluate(node.left as Node, environment);
    const right = this.evaluate(node.right as Node, environment);
    const delegate = () => super.evaluate({...node, left: known(left), right: known(right)}, environment);
    if (operator.endsWith('in')) {
      this.spend(COST.search * lengthOf(right) * (1 + Math.min(lengthOf(left), 256)));
      return delegate();
    }
    if (operator === '==') return new BooleanValue(this.isEqual(left, right));
    if (operator === '!=') return new BooleanValue(!this.isEqual(left, right));
    const texts = [left, right].filter(({type}) => type === 'StringValue').length;
    if (operator === '~' || texts === 2) return this.appended(left, right);
    if (texts === 0) return delegate();
    throw new Error(`expected two texts for +, got ${left.type} and ${right.type}. Use ~`);
  }

  private isEqual(left: RuntimeValue, right: RuntimeValue): boolean {
    if (left.type === right.type && typeof left.value !== 'object') return left.value === right.value;
    if (isNumber(left) && isNumber(right)) return Number(left.value) === Number(right.value);
    return left.type === right.type && this.textOf(left) === this.textOf(right);
  }

  override evaluateBlock(nodes: Node[], environment: Environment): RuntimeValue {
    const isLoopBody = this.loopBodies.has(nodes);
    let text = '';
    if (isLoopBody && this.brokenLoops.has(environment)) return new StringValue(text);
    const {depth} = this;
    if (isLoopBody && this.pass === 'none') this.pass = 'begun';
    for (const node of nodes) {
      try {
        const value = this.evaluate(node, environment);
        text += this.written(node, value);
      } catch (error) {
        const {control} = this;
        if (control === undefined || error !== control.error) throw error;
        control.text = text + control.text;
        if (!isLoopBody) throw error;
        this.depth = depth;
        this.control = undefined;
        if (control.isBreak) this.brokenLoops.add(environment);
        return new StringValue(control.text);
      }
      this.assertCharacters(text.length);
    }
    if (isLoopBody) this.pass = 'ended';
    return new StringValue(text);
  }

  private written(node: Node, value: RuntimeValue): string {
    if (value.type === 'StringValue') return value.value as string;
    if (SILENT.has(node.type) || value.type === 'UndefinedValue') return '';
    return this.textOf(value);
  }

  override applyFilter(operand: RuntimeValue, filter: Node, environment: Environment): RuntimeValue {
    const isCall = filter.type === 'CallExpression';
    const name = (isCall ? (filter.callee as Node) : filter).value as string;
    const input = this.filterInput(name, operand);
    if (!CHEAP_FILTERS.has(name)) this.spend(COST.walk * lengthOf(input));
    const value = OWN_FILTERS.has(name)
      ? this.applyOwnFilter(name, input, isCall ? (filter.args as Node[]) : [], environment)
      : (super.applyFilter(input, filter, environment) as RuntimeValue | undefined);
    if (value === undefined) return new UndefinedValue(); // the first item of an empty list
    this.spend(COST.walk * lengthOf(value));
    return value;
  }

  /** Turns an operand into what Python's filter makes of it first; the package refuses the types that it does not expect. */
  private filterInput(name: string, operand: RuntimeValue): RuntimeValue {
    if (TEXT_FILTERS.has(name) && operand.type !== 'StringValue')
      return new StringValue(this.textOf(operand));
    if (operand.type !== 'UndefinedValue') return operand;
    if (name === 'items') return new ObjectValue(new Map());
    return LIST_FILTERS.has(name) ? new ArrayValue([]) : operand;
  }

  private applyOwnFilter(
    name: string,
    operand: RuntimeValue,
    given: Node[],
    environment: Environment,
  ): RuntimeValue {
    const [args, named] = this.evaluateArguments(given, environment);
    const argument = (at: number, key: string) => {
      const value = args[at] ?? named.get(key);
      return value && fromRuntimeValue(value);
    };
    switch (name) {
      case 'tojson':
        return this.toJson(operand, argument);
      case 'join':
        return this.join(operand, argument);
      case 'indent':
        return this.indent(operand, argument);
      case 'title':
        return new StringValue(
          this.textOf(operand)
            .split(/([-\s({[<]+)/)
            .map(capitalize)
            .join(''),
        );
      case 'capitalize':
        return new StringValue(capitalize(this.textOf(operand)));
      case 'trim':
        return new StringValue(STRING_METHODS.strip(this.textOf(operand), argument(0, 'chars')) as string);
      default:
        return new StringValue(this.textOf(operand));
    }
  }

  /** Writes JSON as transformers does: without HTML escapes, and with non-ASCII characters. */
  private toJson(operand: RuntimeValue, argument: Argument): RuntimeValue {
    if (operand.type === 'UndefinedValue')
      throw new Error('expected a value for tojson, got an undefined one');
    const indent = argument(1, 'indent') ?? undefined;
    const separators = argument(2, 'separators') ?? undefined;
    const isPair = Array.isArray(separators) && separators.length === 2;
    if (separators !== undefined && !isPair) throw new Error('expected two separators for tojson');
    const padding = indent === undefined ? undefined : this.padding(indent);
    const characters = this.charactersOf(operand);
    this.spend(COST.walk * characters);
    this.assertCharacters(characters * Math.max(1, padding?.length ?? 0));
    return new StringValue(
      writePythonJson(fromRuntimeValue(operand), {
        ensureAscii: argument(0, 'ensure_ascii') === true,
        indent: padding,
        separators: separators as [string, string] | undefined,
        sortKeys: argument(3, 'sort_keys') === true,
      }),
    );
  }

  private join(operand: RuntimeValue, argument: Argument): RuntimeValue {
    const {value} = operand;
    const attribute = argument(1, 'attribute') ?? undefined;
    const items = typeof value === 'string' ? Array.from(value, (char) => new StringValue(char)) : value;
    if (!Array.isArray(items) || attribute !== undefined)
      throw new Error('expected a list to join, without an attribute');
    return this.joined(items as RuntimeValue[], pythonText(argument(0, 'd') ?? ''));
  }

  private indent(operand: RuntimeValue, argument: Argument): RuntimeValue {
    const padding = this.padding(argument(0, 'width') ?? 4);
    const [isFirst, isBlank] = [argument(1, 'first') === true, argument(2, 'blank') === true];
    const lines = this.textOf(operand).split('\n');
    this.assertCharacters(lines.length * padding.length);
    const indented = lines.map((line, i) =>
      (i === 0 ? isFirst : isBlank || line !== '') ? padding + line : line,
    );
    return new StringValue(indented.join('\n'));
  }

  private padding(width: unknown): string {
    if (typeof width === 'string') return width;
    this.assertCharacters(Number(width));
    return ' '.repeat(Math.max(0, Number(width)));
  }

  private appended(left: RuntimeValue, right: RuntimeValue): RuntimeValue {
    const text = this.textOf(left) + this.textOf(right); // JavaScript concatenates without a copy
    this.assertCharacters(text.length);
    return new StringValue(text);
  }

  private joined(values: RuntimeValue[], separator: string): RuntimeValue {
    const texts = values.map((value) => this.textOf(value));
    this.assertCharacters(
      texts.reduce((sum, text) => sum + text.length, separator.length * Math.max(0, texts.length - 1)),
    );
    return new StringValue(texts.join(separator));
  }

  /** Writes a value as Python's `str` does. */
  private textOf(value: RuntimeValue): string {
    if (value.type === 'StringValue') return value.value as string;
    if (value.type === 'UndefinedValue') return '';
    this.spend(COST.walk * this.charactersOf(value));
    return pythonText(fromRuntimeValue(value));
  }

  private spend(steps: number): void {
    this.steps -= steps;
    if (this.steps < 0)
      throw new TemplateLimitError('expected a template that finishes quickly, got one with too many steps');
  }

  private spendOnMention(value: RuntimeValue): void {
    if (value.type === 'StringValue') {
      const {length} = value.value as string;
      if (length < 1024) return;
      this.assertCharacters(length);
      this.spend(COST.mention.character * length);
    } else if (typeof value.value === 'object' && value.value !== null) {
      this.assertCharacters(this.charactersOf(value));
      this.spend(COST.mention.item * lengthOf(value));
    }
  }

  private assertCharacters(count: number): void {
    if (count <= this.mostCharacters) return;
    throw new TemplateLimitError(`expected texts of at most ${this.mostCharacters} characters, got more`);
  }

  /** Estimates the number of characters in a written value. A value that is in a list twice counts twice. */
  private charactersOf(value: RuntimeValue): number {
    if (value.type === 'StringValue') return (value.value as string).length;
    if (typeof value.value !== 'object' || value.value === null) return 8;
    const isNamespace = value.type === 'NamespaceValue'; // a namespace may change
    const counted = isNamespace ? undefined : (value as Counted)[CHARACTERS_OF];
    if (counted !== undefined) return counted;
    const items = (
      value.value instanceof Map ? [...value.value.values()] : (value.value as unknown[])
    ) as RuntimeValue[];
    let characters = 2;
    for (const item of items) {
      if (item.type === 'NamespaceValue')
        throw new TemplateLimitError('expected no namespace within another value');
      characters += 2 + this.charactersOf(item);
    }
    if (!isNamespace) (value as Counted)[CHARACTERS_OF] = characters;
    return characters;
  }
}

/** Returns an argument of a filter by its position or name; undefined when it is not given. */
type Argument = (at: number, name: string) => unknown;

const isNumber = ({type}: RuntimeValue) => ['IntegerValue', 'FloatValue', 'BooleanValue'].includes(type);

const nodeCounts = new WeakMap<Node, number>();

function nodesIn(node: Node): number {
  const count = nodeCounts.get(node) ?? countNodes(node);
  nodeCounts.set(node, count);
  return count;
}

function countNodes(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const parts = value instanceof Map ? [...value].flat() : Object.values(value);
  return parts.reduce<number>((sum, part) => sum + countNodes(part), 1);
}

const methodName = ({property}: Node) => (property as Node).value as string;

const isOwnMethod = (callee: Node) => !callee.computed && Object.hasOwn(STRING_METHODS, methodName(callee));

/** Makes a node that already has its value. */
const known = (value: RuntimeValue): Node => ({type: 'Known', value});

function lengthOf({value}: RuntimeValue): number {
  if (typeof value === 'string' || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}
