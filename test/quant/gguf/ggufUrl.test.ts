import {readFileSync} from 'node:fs';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {join} from 'node:path';
import {GgufFiles} from '../../../quant/gguf/ggufFiles.ts';

const FILE = readFileSync(join(__dirname, '../../parity/gguf/fixtures/llama.gguf'));

let server: Server;
let url: string;
let sent: number;
let sendsParts: boolean;

beforeAll(async () => {
  server = createServer((request, response) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (!request.url?.endsWith('/model.gguf')) return response.writeHead(404).end();
    const [begin, end] = sendsParts && range ? [Number(range[1]), Number(range[2]) + 1] : [0, FILE.length];
    const part = FILE.subarray(begin, end);
    sent += part.length;
    if (!sendsParts || !range) return response.writeHead(200).end(part);
    return response.writeHead(206, {'content-range': `bytes ${begin}-${end - 1}/${FILE.length}`}).end(part);
  });
  await new Promise<void>((resume) => server.listen(0, resume));
  url = `http://localhost:${(server.address() as AddressInfo).port}/models`;
});
afterAll(() => server.close());
beforeEach(() => {
  sent = 0;
});

describe('a GGUF file behind a URL', () => {
  it.each([true, false])('is read where the server sends parts: %s', async (parts) => {
    sendsParts = parts;
    const files = await GgufFiles.open(url, 'model.gguf');
    const expected = await GgufFiles.open(join(__dirname, '../../parity/gguf/fixtures'), 'llama.gguf');
    for (const name of ['token_embd.weight', 'output_norm.weight'])
      expect(await files.load(name)).toEqual(await expected.load(name));
    expected.close();
  });

  it('is fetched part by part', async () => {
    sendsParts = true;
    const files = await GgufFiles.open(url, 'model.gguf');
    const header = sent;
    await files.load('output_norm.weight');
    expect(sent - header).toBe(32 * 4);
  });

  it('is missing by name', async () => {
    await expect(GgufFiles.open(url, 'other.gguf')).rejects.toThrow(
      `GGUF file [${url}/other.gguf]: expected a readable file, got none of that name.`,
    );
  });
});
