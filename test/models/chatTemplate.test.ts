import {ChatTemplate} from '../../models/chatTemplate/chatTemplate.ts';
import {strftime} from '../../models/chatTemplate/strftime.ts';
import {parsePythonJson} from '../../models/pythonJson.ts';
import {type ChatMessage, Tokenizer} from '../../models/tokenizer.ts';
import goldens from './fixtures/chatTemplates.json';

const tokenizerWith = (chatTemplate: string) =>
  new Tokenizer({
    tokenizer: {model: {type: 'WordPiece', vocab: {'<s>': 0, '</s>': 1, x: 2}, unk_token: 'x'}},
    config: {bos_token: '<s>', eos_token: '</s>'},
    chatTemplate,
  });

const render = (template: string, variables: Record<string, unknown> = {}) =>
  new ChatTemplate(template, 'chat_template.jinja').render(variables);

test.each(goldens.cases)('$name of chat $chat is as transformers renders it', ({template, chat, text}) => {
  const messages = parsePythonJson(goldens.chats[chat]) as ChatMessage[];
  const rendered = () => tokenizerWith(template).applyChatTemplate(messages);
  if (text !== null) expect(rendered()).toBe(text);
  else expect(rendered).toThrow(expect.objectContaining({name: 'TfjsLoraError'}));
});

describe('a template that would not end, or not fit', () => {
  const twice = (start: string, step: string) =>
    `{% set ns = namespace(x=${start}) %}{% for i in range(100) %}{% set ns.x = ${step} %}{% endfor %}`;

  test.each([
    ['a long range', '{% for i in range(1000000000) %}{% endfor %}', 'a range of at most 100000 numbers'],
    [
      'nested empty loops',
      '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
      'a template that finishes quickly',
    ],
    ['a macro that calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'at most 400 levels'],
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}',
      'a template that finishes quickly',
    ],
    ['a text that doubles', `${twice("'ab'", 'ns.x ~ ns.x')}{{ ns.x }}`, 'texts of at most'],
    ['a list that doubles', twice('[1]', 'ns.x + ns.x'), 'texts of at most'],
    ['a list of itself twice', `${twice("['a']", '[ns.x, ns.x]')}{{ ns.x | tojson }}`, 'texts of at most'],
    [
      'lists that grow through namespaces',
      '{% set a = namespace() %}{% set l = [a, a] %}{{ l }}',
      'no namespace within another value',
    ],
    ['a wide indent', "{{ 'a' | indent(1000000000) }}", 'texts of at most'],
    ['a wide indent of JSON', '{{ [1] | tojson(indent=1000000000) }}', 'texts of at most'],
    [
      'searches for near matches',
      `${"{% set ns = namespace(x='a', y='b') %}{% for i in range(21) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"}` +
        '{% set y = "b" ~ ns.x[:999] %}{% for i in range(99999) %}{{ y in ns.x }}{{ ns.x.split(y) }}{% endfor %}',
      'a template that finishes quickly',
    ],
    ['nested brackets', `{{ ${'('.repeat(99_999)} }}`, 'a Jinja template'],
    ['a long sum', `{{ 1${'+1'.repeat(99_999)} }}`, 'at most 400 levels'],
    ['a long template', 'x'.repeat(2 ** 20), 'a template of at most 524288 characters'],
    ['many spaces', `{{ a }}${' '.repeat(99_999)}x`, 'a template without a thousand spaces'],
  ])('%s', (_, template, expected) => {
    const error = {code: 'CORRUPT_FILE', message: `chat_template.jinja: expected ${expected}`};
    expect(() => render(template)).toThrow(
      expect.objectContaining({...error, message: expect.stringContaining(error.message)}),
    );
  });

  test('accepts a long conversation', () => {
    const template =
      '{% for m in messages %}{% if loop.index0 == messages | length - 1 %}last:{% endif %}' +
      '<|{{ m.role }}|>{{ m.content | trim }}{{ messages[loop.index0 - 1].role }}{% endfor %}';
    const content = ' word '.repeat(100);
    const messages = Array.from({length: 10_000}, (_, i) => ({role: i % 2 ? 'assistant' : 'user', content}));
    const text = render(template, {messages});
    expect(text.startsWith(`<|user|>${content.trim()}assistant<|assistant|>`)).toBe(true);
    expect(text.match(/<\|/g)).toHaveLength(10_000);
    expect(text.match(/last:<\|assistant/g)).toHaveLength(1);
  });

  test('refuses messages that are nested too deep or contain themselves', () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    expect(() => render('{{ messages }}', {messages: [circle]})).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('nested at most 512'),
      }),
    );
  });
});

test('gives templates access to nothing but their variables', () => {
  const tried = ['constructor', '__proto__', 'toString.constructor', "constructor('return 1')()"];
  for (const name of tried) {
    const read = (owner: string) => {
      try {
        return render(`{{ ${owner}.${name} }}`, {messages: [{role: 'user'}]});
      } catch (error) {
        return (error as {code?: string}).code;
      }
    };
    for (const owner of ['messages', 'messages[0]', "'x'", 'range'])
      expect(['', 'INVALID_ARGUMENT']).toContain(read(owner));
  }
});

test('formats dates with strftime as Python does', () => {
  const date = new Date(2024, 6, 5, 15, 4, 9);
  expect(strftime(date, '%d %b %Y|%A %-d %B|%H:%M:%S|%I %p|%j|%y-%m|%e|%F %T|100%%')).toBe(
    '05 Jul 2024|Friday 5 July|15:04:09|03 PM|187|24-07| 5|2024-07-05 15:04:09|100%',
  );
  expect(() => strftime(date, '%Q')).toThrow('expected a field of strftime, got %Q');
});
