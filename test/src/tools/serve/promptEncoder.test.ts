import {join} from 'node:path';
import fc from 'fast-check';
import {Tokenizer} from '../../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../../quant/warn.ts';
import {resolvedChatEncoder, templateChatEncoder} from '../../../../src/tools/chat/templateChatEncoder.ts';
import {parseChatRequest, parseTextRequest} from '../../../../src/tools/serve/completionRequest.ts';
import {longestToken} from '../../../../src/tools/serve/longestToken.ts';
import {PromptEncoder} from '../../../../src/tools/serve/promptEncoder.ts';

const FIXTURES = join(__dirname, '../../../models/fixtures/tokenizers');
const QUICKSTART = join(__dirname, '../../../../examples/quickstart/model');

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await Tokenizer.fromFolder(QUICKSTART);
});

describe('long prompts', () => {
  const {signal} = new AbortController();
  const long = 'Grants to the several states, and to tribes. '.repeat(2000);
  let prompts: PromptEncoder;
  let warnings: string[];
  let handler: (message: string) => void;

  beforeEach(() => {
    prompts = new PromptEncoder(tokenizer, 1e9);
    warnings = [];
    handler = setWarningHandler((message) => warnings.push(message));
  });
  afterEach(async () => {
    setWarningHandler(handler);
    await prompts.close();
  });

  /** Returns the result, and the number of turns of the event loop meanwhile. */
  async function turnsDuring<T>(task: Promise<T>): Promise<{result: T; turns: number}> {
    let turns = 0;
    let isDone = false;
    const turn = () => {
      turns++;
      if (!isDone) setImmediate(turn);
    };
    setImmediate(turn);
    const result = await task;
    isDone = true;
    return {result, turns};
  }
  const noChat = () => {
    throw new Error('no chat');
  };

  test('of text are tokenized while other requests are answered', async () => {
    const encode = jest.spyOn(tokenizer, 'encode');
    const task = prompts.encode(parseTextRequest({prompt: long}, {}), noChat, signal);
    const {result, turns} = await turnsDuring(task);
    expect(encode).not.toHaveBeenCalled();
    encode.mockRestore();
    expect(turns).toBeGreaterThan(1);
    expect(result).toEqual(tokenizer.encode(long));
    expect(warnings).toEqual([]);
  });

  test.each([undefined, 'llama3'])('of a chat are too, with the template %s', async (template) => {
    const messages = [
      {role: 'user', content: long},
      {role: 'assistant', content: 'Indeed.'},
      {role: 'user', content: 'Why?'},
    ];
    const encoder = templateChatEncoder(tokenizer, template, {defaultSystem: 'Be brief.'});
    warnings.length = 0; // warnings about the template's tokens
    const encode = jest.spyOn(tokenizer, 'encode');
    const {result} = await turnsDuring(
      prompts.encode(parseChatRequest({messages}, {}), () => encoder, signal),
    );
    expect(encode).not.toHaveBeenCalled();
    encode.mockRestore();
    expect(result).toEqual(encoder(messages));
    expect(warnings).toEqual([]);
  });

  test("are encoded by the user's own encoder if there is one", async () => {
    const encoder = () => [1, 2, 3];
    const request = parseChatRequest({messages: [{role: 'user', content: long}]}, {});
    expect(await prompts.encode(request, () => encoder, signal)).toEqual([1, 2, 3]);
  });

  test('stop with their request, and the next one is tokenized', async () => {
    const controller = new AbortController();
    const request = parseTextRequest({prompt: long}, {});
    const task = prompts.encode(request, noChat, controller.signal);
    setImmediate(() => controller.abort(new Error('gone')));
    await expect(task).rejects.toThrow('gone');
    expect(await prompts.encode(request, noChat, signal)).toEqual(tokenizer.encode(long));
  });

  test('that the template refuses are errors of the request', async () => {
    const encoder = resolvedChatEncoder(tokenizer, templateChatEncoder(tokenizer, 'llama3').template!);
    const messages = [
      {role: 'user', content: long},
      {role: 'user', content: 'twice'},
    ];
    const task = prompts.encode(parseChatRequest({messages}, {}), () => encoder, signal);
    await expect(task).rejects.toMatchObject({code: 'INVALID_ARGUMENT'});
  });
});

describe('the longest token', () => {
  test.each(['byteLevel', 'byteFallback', 'quickstart'])(
    'of %s bounds the tokens of any text',
    async (name) => {
      const each = await Tokenizer.fromFolder(name === 'quickstart' ? QUICKSTART : join(FIXTURES, name));
      const longest = longestToken(each.files) as number;
      expect(longest).toBeGreaterThan(3);
      const some = fc.oneof(
        fc.string({unit: 'binary'}),
        fc.string({unit: fc.constantFrom(' ', 'a', 'the', '\n', 'é', '<|end|>', '</s>')}),
      );
      fc.assert(
        fc.property(some, (text) => {
          const ids = each.encode(text, {addSpecialTokens: false});
          expect(ids.length * longest).toBeGreaterThanOrEqual(Buffer.byteLength(text.toWellFormed()));
        }),
        {seed: 5},
      );
    },
  );

  const digits = {
    type: 'Sequence',
    pretokenizers: [{type: 'ByteLevel'}, {type: 'Digits', behavior: 'Removed'}],
  };
  const token = {id: 9, content: '<x>', special: true, lstrip: true, rstrip: false, normalized: false};
  test.each<[string, object]>([
    ['a normalizer that strips', {normalizer: {type: 'Strip'}}],
    ['one in a sequence', {normalizer: {type: 'Sequence', normalizers: [{type: 'NFKC'}]}}],
    [
      'a replacement by a shorter text',
      {normalizer: {type: 'Replace', pattern: {String: 'ab'}, content: 'a'}},
    ],
    ['pieces that are removed', {pre_tokenizer: digits}],
    ['words split at white space', {pre_tokenizer: {type: 'WhitespaceSplit'}}],
    ['an added token that strips spaces', {added_tokens: [token]}],
    ['whole words', {model: {type: 'WordPiece', vocab: {}}}],
    ['characters without a token', {pre_tokenizer: null}],
  ])('is not sure with %s', (_, change) => {
    const files = tokenizer.files;
    expect(longestToken(files)).toBeDefined();
    expect(longestToken({...files, tokenizer: {...files.tokenizer, ...change}})).toBeUndefined();
  });
});
