import fc from 'fast-check';
import {decodeUtf8, Utf8Decoder} from '../../quant/decodeUtf8.ts';
import {readText} from '../../quant/folders/folder.ts';
import {openFolder} from '../../quant/folders/openFolder.ts';

const bytesOf = (...parts: (string | number[])[]) =>
  Buffer.concat(parts.map((part) => Buffer.from(part as string)));

function inPieces(bytes: Uint8Array, size: number): string {
  const decoder = new Utf8Decoder('x.txt');
  let text = '';
  for (let at = 0; at < bytes.length; at += size) text += decoder.decode(bytes.subarray(at, at + size));
  decoder.end();
  return text;
}

test('decodes any text, also in pieces', () => {
  fc.assert(
    fc.property(fc.string({unit: 'binary'}), fc.integer({min: 1, max: 5}), (text, size) => {
      fc.pre(!text.startsWith('\ufeff'));
      const bytes = Buffer.from(text);
      expect(decodeUtf8(bytes, 'x.txt')).toBe(text);
      expect(inPieces(bytes, size)).toBe(text);
    }),
  );
});

test('drops a byte order mark only at the beginning', () => {
  expect(decodeUtf8(bytesOf('\ufeffa\ufeff'), 'x')).toBe('a\ufeff');
  expect(inPieces(bytesOf('\ufeffa\ufeffb'), 4)).toBe('a\ufeffb');
});

test.each([
  ['Latin-1', bytesOf('caf', [0xe9], '"}'), 3, '0xe9'],
  ['UTF-16', bytesOf([0xff, 0xfe, 0x41, 0]), 0, '0xff'],
  ['a character cut off', bytesOf('aé', [0xe2, 0x82]), 3, '0xe2'],
  ['a lone continuation byte', bytesOf('😀', [0x80], 'x'), 4, '0x80'],
  ['an overlong form', bytesOf('ab', [0xc0, 0x80]), 2, '0xc0'],
  ['half a surrogate pair', bytesOf('ab', [0xed, 0xa0, 0x80]), 2, '0xed'],
  ['a code point beyond Unicode', bytesOf('a', [0xf4, 0x90, 0x80, 0x80]), 1, '0xf4'],
])('refuses %s, naming the byte', (_, bytes, at, got) => {
  const error = expect.objectContaining({
    code: 'CORRUPT_FILE',
    message: `x.txt byte ${at}: expected UTF-8 text, got ${got}. Save the file as UTF-8.`,
  });
  expect(() => decodeUtf8(bytes, 'x.txt')).toThrow(error);
  for (const size of [1, 2, 3, 100]) expect(() => inPieces(bytes, size)).toThrow(error);
});

test("checks every text of a model's folder", async () => {
  const folder = openFolder(new Map([['config.json', new Blob([bytesOf('{"a": "', [0xe9], '"}')])]]));
  await expect(readText(folder, 'config.json')).rejects.toThrow(
    'config.json byte 7: expected UTF-8 text, got 0xe9',
  );
});
