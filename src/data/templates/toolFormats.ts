import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';

/** A function call as data sets write it. */
interface FunctionCall {
  name: string;
  arguments: unknown;
}

interface ToolParameter {
  type?: string;
  description?: string;
  enum?: string[];
  items?: {type?: string};
}

/** A tool in OpenAI's JSON schema, bare or as `{type: 'function', function: tool}`. */
interface Tool {
  name: string;
  description?: string;
  parameters: {properties: Record<string, ToolParameter>; required?: string[]};
}

interface ToolFormat {
  /** What the system text says about the tools. */
  describe(tools: Record<string, unknown>[], dateString: string): string;
  /** What the assistant writes to call them. */
  call(calls: FunctionCall[]): string;
}

const FORMATS: Record<string, ToolFormat> = {
  default: {
    describe: (tools) => {
      const bare = tools.map((tool) => (tool.type === 'function' ? tool.function : tool) as Tool);
      return (
        `You have access to the following tools:\n${bare.map(describeTool).join('')}` +
        'Use the following format if using a tool:\n```\n' +
        `Action: tool name (one of [${bare.map(({name}) => name).join(', ')}])\n` +
        'Action Input: the input to the tool, in a JSON format representing the kwargs ' +
        '(e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n'
      );
    },
    call: (calls) =>
      calls.map((call) => `Action: ${call.name}\nAction Input: ${pythonJson(call.arguments)}`).join('\n'),
  },
  /** Llama 3.1's JSON calls. */
  llama3: {
    describe: (tools, dateString) => {
      const wrapped = tools.map((tool) =>
        tool.type === 'function' ? tool : {type: 'function', function: tool},
      );
      return (
        `Cutting Knowledge Date: December 2023\nToday Date: ${dateString}\n\n` +
        'You have access to the following functions. To call a function, please respond with JSON for a function call. ' +
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. ' +
        `Do not use variables.\n\n${wrapped.map((tool) => `${JSON.stringify(tool, null, 4)}\n\n`).join('')}`
      );
    },
    call: (calls) => {
      const objects = calls.map(({name, arguments: parameters}) => ({name, parameters}));
      return pythonJson(objects.length === 1 ? objects[0] : objects);
    },
  },
};

function describeTool({name, description = '', parameters}: Tool): string {
  const lines = Object.entries(parameters.properties).map(([key, parameter]) => {
    const required = parameters.required?.includes(key) ? ', required' : '';
    const choices = parameter.enum?.length ? `, should be one of [${parameter.enum.join(', ')}]` : '';
    const items = parameter.items ? `, where each item should be ${parameter.items.type ?? ''}` : '';
    return `  - ${key} (${parameter.type ?? ''}${required}): ${parameter.description ?? ''}${choices}${items}\n`;
  });
  return `> Tool Name: ${name}\nTool Description: ${description}\nTool Args:\n${lines.join('')}\n`;
}

function getFormat(name: string): ToolFormat {
  if (Object.hasOwn(FORMATS, name)) return FORMATS[name];
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `template toolFormat: expected ${Object.keys(FORMATS).join(' or ')}, got '${name}'. ` +
      `Nearest: ${nearestNames(name, Object.keys(FORMATS), 1)}.`,
  );
}

/**
 * The part of the system text about tools.
 *
 * @param tools JSON text: a list of tools
 */
export function describeTools(format: string, tools: string, dateString: string): string {
  const parsed = parseJson('tools', tools);
  if (!Array.isArray(parsed)) throw malformed('tools', 'a list of tools', tools);
  if (parsed.length === 0) return '';
  for (const tool of parsed) {
    const bare = tool?.type === 'function' ? tool.function : tool;
    if (typeof bare?.name !== 'string' || typeof bare.parameters?.properties !== 'object')
      throw malformed('tools', 'tools with a name and parameters.properties', JSON.stringify(tool));
  }
  return getFormat(format).describe(parsed, dateString);
}

/**
 * A function call as the template writes it.
 *
 * @param content JSON text `{"name", "arguments"}` or a list of such; thoughts may stand before it, and then the call is
 *   in `<tool_call>` tags or the thoughts are in `<think>` tags
 */
export function writeFunctionCalls(format: string, content: string): string {
  const tagged = /<tool_call>([\s\S]*?)<\/tool_call>/.exec(content);
  const thought = tagged ? undefined : /<think>\n[\s\S]*?\n<\/think>\n\n/.exec(content)?.[0];
  const before = tagged ? content.replaceAll(tagged[0], '') : (thought ?? '');
  const text = tagged ? tagged[1] : thought ? content.replaceAll(thought, '') : content;
  return before + getFormat(format).call(parseFunctionCalls(text));
}

/** The calls of a message, `{"name", "arguments"}` or a list of such as JSON text. */
export function parseFunctionCalls(text: string): FunctionCall[] {
  const calls = [parseJson('function call', text)].flat() as FunctionCall[];
  for (const call of calls) {
    if (typeof call?.name !== 'string' || call.arguments === undefined)
      throw malformed('function call', '{"name": …, "arguments": …}', JSON.stringify(call));
  }
  return calls;
}

function parseJson(what: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw malformed(what, 'JSON', text);
  }
}

function malformed(what: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('CORRUPT_FILE', `${what}: expected ${expected}, got ${got.slice(0, 120)}`);
}

/** JSON in one line, spaced as Python's `json.dumps(value, ensure_ascii=False)`. */
export function pythonJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pythonJson(item)}`);
  return `{${entries.join(', ')}}`;
}

/** A date as Llama's chat template prints it: `26 Jul 2024`. */
export function formatDate(date: Date): string {
  const month = date.toLocaleString('en-US', {month: 'short'});
  return `${String(date.getDate()).padStart(2, '0')} ${month} ${date.getFullYear()}`;
}
