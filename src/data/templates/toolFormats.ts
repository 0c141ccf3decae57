import {parsePythonJson, writePythonJson} from '../../../models/pythonJson.ts';
import {entriesOf, pythonText} from '../../../models/pythonValue.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';

/** A function call as data sets write it. */
interface FunctionCall {
  name: string;
  arguments: unknown;
}

/** A tool in OpenAI's JSON schema, bare or as `{type: 'function', function: tool}`. */
interface Tool {
  name: string;
  description?: unknown;
  parameters: {properties: Record<string, Record<string, unknown>>; required?: unknown[]};
}

interface ToolFormat {
  /** Writes the system text about the tools; `given` is their JSON text. */
  describe(tools: Record<string, unknown>[], dateString: string, given: string): string;
  /** Whether a text is also written about an empty list of tools. Default false. */
  describesNone?: boolean;
  /** Writes the assistant's calls. */
  call(calls: FunctionCall[]): string;
}

const DEFAULT_FORMAT: ToolFormat = {
  describe: (tools) => {
    const bare = tools.map(bareTool);
    return (
      `You have access to the following tools:\n${bare.map(describeTool).join('')}` +
      'Use the following format if using a tool:\n```\n' +
      `Action: tool name (one of [${bare.map(({name}) => name).join(', ')}])\n` +
      'Action Input: the input to the tool, in a JSON format representing the kwargs ' +
      '(e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n'
    );
  },
  call: (calls) =>
    calls.map((call) => `Action: ${call.name}\nAction Input: ${writePythonJson(call.arguments)}`).join('\n'),
};

const FORMATS: Record<string, ToolFormat> = {
  default: DEFAULT_FORMAT,
  /** Llama 3.1's JSON calls. */
  llama3: {
    describe: (tools, dateString) => {
      return (
        `Cutting Knowledge Date: December 2023\nToday Date: ${dateString}\n\n` +
        'You have access to the following functions. To call a function, please respond with JSON for a function call. ' +
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. ' +
        `Do not use variables.\n\n${tools.map((tool) => `${writePythonJson(wrappedTool(tool), {indent: '    '})}\n\n`).join('')}`
      );
    },
    call: (calls) => {
      const objects = calls.map(({name, arguments: parameters}) => ({name, parameters}));
      return writePythonJson(objects.length === 1 ? objects[0] : objects);
    },
  },
  /** Qwen 2.5's and 3's JSON in tags. */
  qwen: {
    describe: (tools) =>
      '\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' +
      'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' +
      `${tools.map((tool) => `\n${writePythonJson(wrappedTool(tool))}`).join('')}\n</tools>\n\n` +
      'For each function call, return a json object with function name and arguments within <tool_call></tool_call> ' +
      'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    call: (calls) =>
      calls.map((call) => `<tool_call>\n${writePythonJson(argumentsOf(call))}\n</tool_call>`).join('\n'),
  },
  /** Mistral's lists, of its third version on. */
  mistral: {
    describe: (tools) => `[AVAILABLE_TOOLS] ${writePythonJson(tools.map(wrappedTool))}[/AVAILABLE_TOOLS]`,
    call: (calls) => writePythonJson(calls.map(argumentsOf)),
  },
  /** The tools as they are given, even when there are none. */
  phi4_mini: {
    describe: (_tools, _dateString, given) => `<|tool|>${given}<|/tool|>`,
    describesNone: true,
    call: DEFAULT_FORMAT.call,
  },
};

const argumentsOf = ({name, arguments: given}: FunctionCall) => ({name, arguments: given});

const wrappedTool = (tool: Record<string, unknown>) =>
  tool.type === 'function' ? tool : {type: 'function', function: tool};

const bareTool = (tool: Record<string, unknown>) =>
  (tool.type === 'function' ? tool.function : tool) as unknown as Tool;

function describeTool({name, description = '', parameters}: Tool): string {
  const {properties, required = []} = parameters;
  const lines = entriesOf(properties).map(([key, value]) => {
    const {type = '', description: about = '', enum: choices, items} = value as Record<string, unknown>;
    const isRequired = required.includes(key) ? ', required' : '';
    const choice =
      Array.isArray(choices) && isFilled(choices)
        ? `, should be one of [${choices.map(pythonText).join(', ')}]`
        : '';
    const {type: itemType = ''} = isObject(items) ? items : {};
    const each = isFilled(items) ? `, where each item should be ${pythonText(itemType)}` : '';
    return `  - ${key} (${pythonText(type)}${isRequired}): ${pythonText(about)}${choice}${each}\n`;
  });
  return `> Tool Name: ${name}\nTool Description: ${pythonText(description)}\nTool Args:\n${lines.join('')}\n`;
}

const isFilled = (value: unknown) =>
  typeof value === 'object' && value !== null && Object.keys(value).length > 0;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function getFormat(name: string): ToolFormat {
  if (Object.hasOwn(FORMATS, name)) return FORMATS[name];
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `template toolFormat: expected one of ${Object.keys(FORMATS).join(', ')}, got '${name}'. ` +
      `Nearest: ${nearestNames(name, Object.keys(FORMATS), 1)}.`,
  );
}

/**
 * Writes the part of the system text about tools.
 *
 * @param tools JSON text: a list of tools
 */
export function describeTools(format: string, tools: string, dateString: string): string {
  const parsed = parseTools(tools);
  const toolFormat = getFormat(format);
  if (parsed.length === 0 && !toolFormat.describesNone) return '';
  for (const tool of parsed) {
    const {name, parameters} = (bareTool(tool) ?? {}) as Partial<Tool>;
    const {properties, required = []} = parameters ?? {};
    const isDescribed =
      typeof name === 'string' && isObject(properties) && Object.values(properties).every(isObject);
    if (!isDescribed || !Array.isArray(required))
      throw malformed('tools', 'tools with a name and parameters.properties', writePythonJson(tool));
  }
  return toolFormat.describe(parsed, dateString, tools);
}

/**
 * Parses tools from JSON text.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` for anything but a list of objects
 */
export function parseTools(text: string): Record<string, unknown>[] {
  const tools = parseJson('tools', text);
  if (Array.isArray(tools) && tools.every(isObject)) return tools;
  throw malformed('tools', 'a list of tools', text);
}

/**
 * Writes a function call as the template does.
 *
 * @param content JSON text `{"name", "arguments"}` or a list of these; thoughts may precede it, when the call is in
 *   `<tool_call>` tags or the thoughts are in `<think>` tags
 */
export function writeFunctionCalls(format: string, content: string): string {
  const tagged = /<tool_call>([\s\S]*?)<\/tool_call>/.exec(content);
  const thought = tagged ? undefined : /<think>\n[\s\S]*?\n<\/think>\n\n/.exec(content)?.[0];
  const before = tagged ? content.replaceAll(tagged[0], '') : (thought ?? '');
  const text = tagged ? tagged[1] : thought ? content.replaceAll(thought, '') : content;
  return before + getFormat(format).call(parseFunctionCalls(text));
}

/** Parses a message's calls from JSON text: `{"name", "arguments"}` or a list of these. */
export function parseFunctionCalls(text: string): FunctionCall[] {
  const calls = [parseJson('function call', text)].flat() as FunctionCall[];
  for (const call of calls) {
    if (typeof call?.name !== 'string' || call.arguments === undefined)
      throw malformed('function call', '{"name": …, "arguments": …}', writePythonJson(call));
  }
  return calls;
}

function parseJson(what: string, text: string): unknown {
  try {
    return parsePythonJson(text);
  } catch {
    throw malformed(what, 'JSON', text);
  }
}

function malformed(what: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('CORRUPT_FILE', `${what}: expected ${expected}, got ${got.slice(0, 120)}`);
}

/** Formats a date as Llama's chat template prints it: `26 Jul 2024`. */
export function formatDate(date: Date): string {
  const month = date.toLocaleString('en-US', {month: 'short'});
  return `${String(date.getDate()).padStart(2, '0')} ${month} ${date.getFullYear()}`;
}
