import {TfjsLoraError} from '../../quant/errors.ts';
import {keepSecret, keepSecretsOf, maskSecrets} from '../../quant/maskSecrets.ts';
import {setWarningHandler, warn} from '../../quant/warn.ts';

const token = `hf_${'aB3'.repeat(11)}z`;

test.each([
  ['http://user:s3cret@mirror/simple/x: answered 404', 'http://***@mirror/simple/x: answered 404'],
  ['via socks5h://user:p@ss@[::1]:1080.', 'via socks5h://***@[::1]:1080.'],
  ['https://token@host and https://other@host', 'https://***@host and https://***@host'],
  [`got ${token}.`, 'got hf_***.'],
  ['{authorization: "Bearer abc.def"}', '{authorization: "Bearer ***"}'],
  ['Authorization: Basic dXNlcjpwYXNz', 'Authorization: Basic ***'],
  [
    'https://cdn/x?X-Amz-Signature=abc123&part=1&access_token=q',
    'https://cdn/x?X-Amz-Signature=***&part=1&access_token=***',
  ],
  // Nothing secret:
  ['https://huggingface.co/org/name@main?x=a@b', 'https://huggingface.co/org/name@main?x=a@b'],
  [
    'dataset hf_hub_url: expected org/name, got "me@home"',
    'dataset hf_hub_url: expected org/name, got "me@home"',
  ],
  ['Authorization: expected "Bearer" and the key', 'Authorization: expected "Bearer" and the key'],
])('%s', (text, masked) => {
  expect(maskSecrets(text)).toBe(masked);
});

test('masks a known secret anywhere, in any spelling', () => {
  keepSecret('http://someone:un/safe%40word@mirror.example/simple');
  keepSecret('opaque-token');
  keepSecret('short');
  keepSecret('http://mirror.example/a/@b/c');
  keepSecretsOf({
    MY_PROXY: 'http://me:behind-the-proxy@proxy:3128',
    SERVICE_API_KEY: 'key-of-the-service',
    OTHER: 'plain value',
    TOKENIZERS_PARALLELISM: 'false-value',
  });
  expect(maskSecrets('un/safe%40word, un/safe@word, opaque-token!')).toBe('***, ***, ***!');
  expect(maskSecrets('behind-the-proxy key-of-the-service')).toBe('*** ***');
  const harmless = 'short, mirror.example/a/, plain value, false-value, someone';
  expect(maskSecrets(harmless)).toBe(harmless);
});

test('masks errors, their causes and warnings', () => {
  const cause = new TypeError('Failed to parse http://a:bcd@e');
  const error = new TfjsLoraError('NETWORK', 'http://a:bcd@e: expected an answer, got none.', {cause});
  expect(error.message).toBe('http://***@e: expected an answer, got none.');
  expect(error.stack).not.toContain('bcd');
  expect(error.cause).toMatchObject({name: 'TypeError', message: 'Failed to parse http://***@e'});
  const warnings: string[] = [];
  const before = setWarningHandler((message) => warnings.push(message));
  warn('http://a:bcd@e');
  setWarningHandler(before);
  expect(warnings).toEqual(['http://***@e']);
});

test('takes time linear in the length of the text, whatever it contains', () => {
  const length = 1 << 20;
  for (const part of ['a', '://', '://a', '?token', 'authorization:', 'hf_', '@', ':/']) {
    const text = part.repeat(length / part.length);
    expect(maskSecrets(text).length).toBeLessThanOrEqual(2 * length);
  }
});
