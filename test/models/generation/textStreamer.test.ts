import {join} from 'node:path';
import fc from 'fast-check';
import {TextStreamer} from '../../../models/generation/textStreamer.ts';
import {Tokenizer} from '../../../models/tokenizer.ts';

const FIXTURES = join(__dirname, '../fixtures/tokenizers');

describe.each(['byteLevel', 'byteFallback'])('TextStreamer with the %s tokenizer', (name) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.fromFolder(join(FIXTURES, name));
  });

  const piecesOf = (ids: number[], streamer: TextStreamer) => [
    ...ids.map((id) => streamer.push(id)),
    streamer.end(),
  ];
  const encodePlain = (text: string) => tokenizer.encode(text, {addSpecialTokens: false});

  test('returns pieces that add up to the text, wherever prompt and continuation are split', () => {
    const text = fc.string({unit: 'grapheme', maxLength: 30}).map((s) => s.replaceAll('▁', ' '));
    fc.assert(
      fc.property(text, fc.nat(), (whole, at) => {
        const ids = tokenizer.encode(whole);
        const cut = at % (ids.length + 1);
        const prompt = tokenizer.decode(ids.slice(0, cut), {skipSpecialTokens: true});
        fc.pre(!prompt.endsWith('\uFFFD'));
        const streamer = new TextStreamer(tokenizer, {promptIds: ids.slice(0, cut)});
        const pieces = piecesOf(ids.slice(cut), streamer);
        expect(prompt + pieces.join('')).toBe(whole);
        expect(streamer.text).toBe(pieces.join(''));
        for (const piece of pieces) expect(piece).not.toMatch(/\p{Surrogate}/u);
      }),
    );
  });

  test('returns pieces that add up to the decoded text, for any ids', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(tokenizer.vocabSize + 2), {maxLength: 30}), (ids) => {
        const pieces = piecesOf(ids, new TextStreamer(tokenizer));
        expect(pieces.join('')).toBe(tokenizer.decode(ids, {skipSpecialTokens: true}));
      }),
    );
  });

  test('waits for whole characters', () => {
    const ids = encodePlain('a🧭');
    const pieces = piecesOf(ids, new TextStreamer(tokenizer));
    expect(pieces.filter((piece) => piece !== '')).toEqual(['a', '🧭']);
    expect(pieces.length).toBeGreaterThan(4);
  });

  test('returns an unfinished character at the end', () => {
    const ids = encodePlain('🧭').slice(0, -1);
    const pieces = piecesOf(ids, new TextStreamer(tokenizer));
    expect(pieces.slice(0, -1).join('')).toBe('');
    expect(pieces.at(-1)).toMatch(/^\uFFFD+$/);
  });

  test('ends before a stop string, even if it spans several tokens', () => {
    const streamer = new TextStreamer(tokenizer, {stopStrings: ['\n\nW', 'never']});
    const pieces = piecesOf(encodePlain('the end\n\nthe sea\n\nWait'), streamer);
    expect(streamer.isStopped).toBe(true);
    expect(pieces.join('')).toBe('the end\n\nthe sea');
    expect(streamer.push(encodePlain('a')[0])).toBe('');
    expect(streamer.end()).toBe('');
  });

  test('returns text that only begins like a stop string in the end', () => {
    const streamer = new TextStreamer(tokenizer, {stopStrings: ['the end!']});
    expect(piecesOf(encodePlain('see the end'), streamer).join('')).toBe('see the end');
    expect(streamer.isStopped).toBe(false);
  });

  test('stops at the earliest of several stop strings', () => {
    const stopStrings = ['in the', 'a'];
    const streamer = new TextStreamer(tokenizer, {stopStrings});
    expect(piecesOf(encodePlain('we win the sand'), streamer).join('')).toBe('we w');
  });
});
