import type {Tokenizer} from '../../../models/tokenizer.ts';
import {Tokenizer as TokenizerClass} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {encodePrompt, encodeTurns, templateStopIds} from '../../../src/data/templates/encodeTurns.ts';
import type {TemplateArgs} from '../../../src/data/templates/template.ts';
import {
  getTemplate,
  registerTemplate,
  resolveTemplate,
  templateNames,
} from '../../../src/data/templates/templateRegistry.ts';
import {describeTools, formatDate, writeFunctionCalls} from '../../../src/data/templates/toolFormats.ts';
import toolTexts from './fixtures/toolTexts.json';
import {llamaTokenizer, withTokens} from './llamaTokenizer.ts';

let tokenizer: Tokenizer;
/** Quicker to make again than Llama's, with the same special tokens. */
let small: Tokenizer;
let warnings: string[];
let before: (message: string) => void;

beforeAll(async () => {
  tokenizer = await llamaTokenizer();
  small = await TokenizerClass.fromFolder('examples/quickstart/model');
});

beforeEach(() => {
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});

afterEach(() => {
  setWarningHandler(before);
});

const withChatTemplate = (chatTemplate?: string) =>
  new TokenizerClass({
    tokenizer: small.files.tokenizer,
    config: {...small.files.config, chat_template: undefined},
    chatTemplate,
  });

const turns = [
  {role: 'user', content: 'Q1'},
  {role: 'assistant', content: 'A1'},
  {role: 'user', content: 'Q2'},
] as const;

describe('registry', () => {
  const custom: TemplateArgs = {
    prefix: [{token: '<|begin_of_text|>'}],
    user: ['<U>{{content}}<A>'],
    assistant: ['{{content}}', {special: 'eos'}],
  };

  test('a registered template works like the built-in ones', () => {
    registerTemplate('custom', custom);
    registerTemplate('custom', {...custom}); // like a notebook's cell that runs again
    expect(templateNames().slice(0, 5)).toEqual(['llama3', 'alpaca', 'chatml', 'default', 'fewshot']);
    expect(templateNames().at(-1)).toBe('custom');
    const template = resolveTemplate('custom', tokenizer);
    expect(tokenizer.decode(encodePrompt(template, tokenizer, turns))).toBe(
      '<|begin_of_text|><U>Q1<A>A1<|eot_id|><U>Q2<A>',
    );
    // `$&` and braces belong to the content.
    const content = '$& {{content}} $1';
    expect(tokenizer.decode(encodePrompt(template, tokenizer, [{role: 'user', content}]))).toBe(
      `<|begin_of_text|><U>${content}<A>`,
    );
    expect(templateStopIds(template, tokenizer)).toEqual([tokenizer.eosTokenId]);
  });

  test.each<[string, TemplateArgs, string | RegExp]>([
    ['llama3', {}, /expected a new name, got 'llama3', with llama3, alpaca, .*, custom, model taken\./],
    ['model', {}, "expected a new name, got 'model'"],
    ['', {}, "expected a new name, got ''"],
    [
      'x',
      {user: ['no place']},
      'registerTemplate x user: expected a slot with {{content}}, got ["no place"]',
    ],
    [
      'x',
      {replaceEos: true},
      'registerTemplate x stopWords: expected the token that replaces the end of sequence, got none',
    ],
  ])('%s %j is refused', (name, args, message) => {
    expect(() => registerTemplate(name, args)).toThrow(message);
  });

  test('a token that the tokenizer lacks', () => {
    registerTemplate('foreign', {prefix: [{token: '[gMASK]'}]});
    const template = resolveTemplate('foreign', tokenizer);
    expect(() => encodePrompt(template, tokenizer, turns)).toThrow(
      'template foreign: expected a tokenizer with the token [gMASK], got one without.',
    );
    resolveTemplate('chatml', tokenizer);
    expect(warnings).toEqual([
      'template chatml: <|im_end|>, <|im_start|> are not tokens of this tokenizer and will be tokenized as ordinary text. ' +
        'Use the template that belongs to the model.',
    ]);
  });

  test('stop tokens', () => {
    expect(templateStopIds(resolveTemplate('llama3', tokenizer), tokenizer)).toEqual([128009]);
    const more = withTokens(tokenizer, ['<|im_end|>', '<|im_start|>']);
    expect(templateStopIds(resolveTemplate('chatml', more), more)).toEqual([128256, 128257]);
    expect(templateStopIds(resolveTemplate('default', more), more)).toEqual([128009]);
    expect(getTemplate('llama3').stopWords).toEqual(['<|eot_id|>', '<|eom_id|>']);
  });
});

describe("the tokenizer's own chat template", () => {
  test('is the default, or `empty` when there is none', () => {
    expect(resolveTemplate(undefined, tokenizer).kind).toBe('chat');
    expect(resolveTemplate('model', tokenizer).kind).toBe('chat');
    expect(resolveTemplate(undefined, withChatTemplate())).toMatchObject({template: {name: 'empty'}});
    expect(warnings).toEqual([
      expect.stringContaining("the tokenizer has no chat template, so the template 'empty' is used"),
    ]);
    expect(() => resolveTemplate('model', withChatTemplate())).toThrow(
      'template model: expected a tokenizer with a chat template, got one without.',
    );
  });

  test('turns join to its rendered text, with the date and a default system text', () => {
    const dated = withChatTemplate(
      '{{ bos_token }}{% for m in messages %}[{{ m.role }} {{ date_string }}]{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}',
    );
    const same = withChatTemplate(
      "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{{ date_string }}" +
        "{% for m in messages %}{% if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endif %}{% endfor %}" +
        '{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}',
    );
    const options = {dateString: '01 Jan 2025', defaultSystem: 'Be kind. '};
    const template = resolveTemplate('model', same, options);
    const lists = encodeTurns(template, same, turns);
    expect(lists.map((ids) => same.decode(ids))).toEqual([
      '<|begin_of_text|>Be kind. 01 Jan 2025<|start_header_id|>user<|end_header_id|>Q1<|eot_id|><|start_header_id|>assistant<|end_header_id|>',
      'A1<|eot_id|>',
      '<|start_header_id|>user<|end_header_id|>Q2<|eot_id|><|start_header_id|>assistant<|end_header_id|>',
    ]);
    const messages = [{role: 'system', content: 'Be kind. '}, ...turns];
    expect(lists.flat()).toEqual(
      same.encodeChat(messages, {dateString: '01 Jan 2025', addGenerationPrompt: true}),
    );
    // This one opens an answer in another way than it writes one.
    expect(() => encodeTurns(resolveTemplate('model', dated, options), dated, turns)).toThrow(
      /^template model: expected a chat template that only appends text for each turn, got one that rewrites/,
    );
  });

  test('tools for the chat template keep the form of their numbers', () => {
    const shown = withChatTemplate('{{ tools | tojson }}{{ messages[0].content }}');
    const tools = '[{"name": "f", "big": 9007199254740993, "half": 2.0, "10": -0.0, "2": 1e+22}]';
    const question = [{role: 'user', content: 'Q'}] as const;
    const [ids] = encodeTurns(resolveTemplate('model', shown), shown, question, {tools});
    expect(shown.decode(ids)).toBe(`${tools}Q`);
  });

  test('function calls and results have the names that chat templates use', () => {
    const shown = withChatTemplate(
      '{% for m in messages %}<{{ m.role }}>{{ m.tool_calls[0].function.arguments.city if m.tool_calls else m.content }}{% endfor %}' +
        '{% if tools %}{{ "" }}{% endif %}',
    );
    const template = resolveTemplate('model', shown);
    const lists = encodeTurns(template, shown, [
      {role: 'user', content: 'warm?'},
      {role: 'function', content: '{"name": "w", "arguments": {"city": "Oslo"}}'},
      {role: 'observation', content: '7'},
    ]);
    expect(lists.map((ids) => shown.decode(ids))).toEqual(['<user>warm?', '<assistant>Oslo', '<tool>7']);
  });
});

describe('tools', () => {
  test('calls with thoughts before them', () => {
    const call = '{"name": "f", "arguments": {"a": [1, "é"]}}';
    const written = '{"name": "f", "parameters": {"a": [1, "é"]}}';
    expect(writeFunctionCalls('llama3', call)).toBe(written);
    expect(writeFunctionCalls('llama3', `Hm.<tool_call>${call}</tool_call>`)).toBe(`Hm.${written}`);
    expect(writeFunctionCalls('llama3', `<think>\nHm\n</think>\n\n${call}`)).toBe(
      `<think>\nHm\n</think>\n\n${written}`,
    );
    expect(writeFunctionCalls('default', `[${call}, ${call}]`)).toBe(
      Array(2).fill('Action: f\nAction Input: {"a": [1, "é"]}').join('\n'),
    );
  });

  test.each([
    [
      () => writeFunctionCalls('llama3', '{"name": "f"}'),
      'function call: expected {"name": …, "arguments": …}, got {"name": "f"}',
    ],
    [
      () => writeFunctionCalls('lama3', '[]'),
      "template toolFormat: expected one of default, llama3, qwen, mistral, phi4_mini, got 'lama3'. Nearest: llama3.",
    ],
    [() => describeTools('llama3', '{}', ''), 'tools: expected a list of tools, got {}'],
    [
      () => describeTools('default', '[{"name": "f"}]', ''),
      'tools: expected tools with a name and parameters.properties, got {"name": "f"}',
    ],
  ])('mistakes %#', (run, message) => {
    expect(run).toThrow(message);
  });

  test.each(toolTexts.texts)('numbers, keys and missing values, as Python writes them: $format', (texts) => {
    expect(toolTexts.calls.map((call) => writeFunctionCalls(texts.format, call))).toEqual(texts.calls);
    const described = toolTexts.tools.map((tools) => describeTools(texts.format, tools, '26 Jul 2024'));
    expect(described).toEqual(texts.tools);
  });

  test.each([
    'null',
    '[null]',
    '["f"]',
    '[{"name": "f", "parameters": null}]',
    '[{"name": "f", "parameters": {"properties": null}}]',
    '[{"name": "f", "parameters": {"properties": {"a": "text"}}}]',
    '[{"name": "f", "parameters": {"properties": {}, "required": "a"}}]',
    '[{"type": "function", "function": null}]',
  ])('tools that are none: %s', (tools) => {
    const error = expect.objectContaining({
      code: 'CORRUPT_FILE',
      message: expect.stringMatching(/^tools: expected /),
    });
    for (const format of ['default', 'llama3']) expect(() => describeTools(format, tools, '')).toThrow(error);
  });

  test('an empty list adds no text; the date is as Llama prints it', () => {
    expect(describeTools('llama3', '[]', '')).toBe('');
    expect(formatDate(new Date(2024, 6, 6))).toBe('06 Jul 2024');
  });
});
