import {request as httpRequest, ServerResponse} from 'node:http';
import {connect, type Socket} from 'node:net';
import {join} from 'node:path';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../../quant/warn.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {
  type ModelServer,
  type RequestReport,
  type ServeOptions,
  serveModel,
} from '../../../../src/tools/serve/serveModel.ts';

/* Clients that hang up, do not read, send half of a request or too much. */

const messages = [{role: 'user', content: 'Which agency runs the program, and until when?'}];

let model: Llama;
let tokenizer: Tokenizer;
let server: ModelServer;
let reports: RequestReport[];
let warnings: string[];
let handler: (message: string) => void;
const sockets: Socket[] = [];

async function start(options: ServeOptions = {}): Promise<void> {
  reports = [];
  server = await serveModel(model, {port: 0, onRequest: (report) => reports.push(report), ...options});
}

beforeAll(async () => {
  await useBackend('wasm');
  model = await Llama.fromPretrained(join(__dirname, '../../../../examples/quickstart/model'));
  tokenizer = model.tokenizer as Tokenizer;
  model.generationConfig = {...model.generationConfig, eosTokenId: [2047]}; // never generated
});
beforeEach(() => {
  warnings = [];
  handler = setWarningHandler((message) => warnings.push(message));
});
afterEach(async () => {
  setWarningHandler(handler);
  jest.restoreAllMocks();
  for (const socket of sockets.splice(0)) socket.destroy();
  await server?.close();
});
afterAll(() => model.dispose());

const post = (body: unknown, path = '/chat/completions') =>
  fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: {'content-type': 'application/json'},
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

async function until(isSo: () => boolean): Promise<void> {
  const end = performance.now() + 50_000;
  while (!isSo()) {
    if (performance.now() > end) throw new Error('it does not come');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Opens a connection and sends the bytes of a request. */
function open(text = ''): {socket: Socket; closed: Promise<void>} {
  const socket = connect(server.port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => {}); // it may be reset
  if (text) socket.write(text);
  return {socket, closed: new Promise((resolve) => socket.once('close', () => resolve()))};
}

const head = (length: number) =>
  `POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n`;
const whole = (body: string) => `${head(Buffer.byteLength(body))}\r\n${body}`;

describe('hanging up', () => {
  test.each([false, true])('stops the answer (streamed: %s)', async (stream) => {
    await start();
    let hangUp = () => {};
    let passes = 0;
    const forward = model.forward.bind(model);
    jest.spyOn(model, 'forward').mockImplementation((...args) => {
      if (++passes === 3) hangUp();
      return forward(...args);
    });
    const {socket} = open(whole(JSON.stringify({messages, max_tokens: 400, stream})));
    hangUp = () => socket.destroy();
    await until(() => reports.length > 0);
    expect(reports).toMatchObject([{status: 499, error: 'the connection was closed'}]);
    expect(passes).toBeLessThan(200);
    expect((await post({messages, max_tokens: 1})).status).toBe(200);
  });

  test('stops the tokenization of a long prompt', async () => {
    await start();
    const {socket} = open(
      whole(JSON.stringify({prompt: 'x'.repeat(9000), max_tokens: 1})).replace('/chat', ''),
    );
    await until(() => socket.bytesWritten > 0);
    socket.destroy();
    expect((await post({messages, max_tokens: 1})).status).toBe(200);
  });
});

describe('a client that does not read its answer', () => {
  test('is disconnected, and the next one is answered', async () => {
    await start({stallTimeout: 300, maxBatchSize: 1});
    const write = ServerResponse.prototype.write as (chunk: unknown) => boolean;
    jest.spyOn(ServerResponse.prototype, 'write').mockImplementation(function (
      this: ServerResponse,
      chunk: unknown,
    ) {
      return write.call(this, `${chunk}:${' '.repeat(1 << 20)}\n\n`); // more than the system buffers
    });
    const {socket, closed} = open();
    socket.pause();
    socket.write(whole(JSON.stringify({messages, max_tokens: 400, stream: true})));
    await until(() => socket.bytesWritten > 0);
    const next = await post({messages, max_tokens: 1});
    expect(next.status).toBe(200);
    await until(() => reports.length === 2);
    expect(reports).toMatchObject([{status: 499}, {status: 200}]);
    expect(reports[0].completionTokens).toBeLessThan(400);
    socket.resume();
    await closed;
  });
});

describe('half a request', () => {
  test.each([
    ['nothing', ''],
    ['a part of its headers', 'POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n'],
    ['a part of its body', `${head(100)}\r\n{"messages"`],
  ])('that is %s is closed', async (_, text) => {
    await start({requestTimeout: 200});
    const {socket, closed} = open(text);
    socket.resume();
    await closed;
    expect((await post({messages, max_tokens: 1})).status).toBe(200);
  });
});

describe('a prompt that cannot fit', () => {
  test.each([
    ['/chat/completions', {messages: [{role: 'user', content: 'word '.repeat(200_000)}]}, 'messages'],
    ['/chat/completions', {messages: Array.from({length: 50_000}, () => messages[0])}, 'messages'],
    ['/completions', {prompt: 'word '.repeat(200_000)}, 'prompt'],
  ])('is refused by its bytes, %#', async (path, body, param) => {
    await start();
    const encode = jest.spyOn(tokenizer, 'encode');
    const response = await post(body, path);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({error: {code: 'context_length_exceeded', param}});
    expect(encode).not.toHaveBeenCalled();
  });

  test('of ids', async () => {
    await start();
    const response = await post({prompt: new Array(600).fill(5)}, '/completions');
    expect(await response.json()).toMatchObject({error: {code: 'context_length_exceeded', param: 'prompt'}});
  });
});

describe('bodies', () => {
  const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

  test.each([3, 60, 5000, 500_000])('tools nested %d deep are refused by name or as JSON', async (depth) => {
    await start();
    const response = await post(`{"messages": ${JSON.stringify(messages)}, "tools": ${nested(depth)}}`);
    expect(response.status).toBe(400);
    const {error} = (await response.json()) as {error: {message: string}};
    expect(error.message).toMatch(
      depth < 64 ? /^tools: expected none or \[\]/ : /^body: expected JSON, got: nesting/,
    );
  });

  test.each([
    [
      'is no UTF-8',
      Buffer.from([
        ...Buffer.from('{"messages": [{"role": "user", "content": "'),
        0xe9,
        0x22,
        0x7d,
        0x5d,
        0x7d,
      ]),
    ],
    ['is null', Buffer.from('null')],
    ['is a list', Buffer.from('[]')],
    ['is empty', Buffer.alloc(0)],
    ['has a model of a million letters', Buffer.from(JSON.stringify({messages, model: 'x'.repeat(1e6)}))],
  ])('one that %s is refused', async (_, body) => {
    await start();
    const response = await fetch(`${server.url}/chat/completions`, {
      method: 'POST',
      headers: {'content-type': 'application/json'},
      body,
    });
    expect([400, 404]).toContain(response.status);
    expect((await response.text()).length).toBeLessThan(2000);
  });
});

describe('access', () => {
  const statusFor = (host: string) =>
    new Promise((resolve) => {
      const url = `${server.url.replace('0.0.0.0', '127.0.0.1')}/models`;
      httpRequest(url, {headers: {Host: host}}, ({statusCode}) => resolve(statusCode)).end();
    });

  test('every loopback address of the machine is accepted', async () => {
    await start({host: process.platform === 'linux' ? '127.0.0.2' : '127.0.0.1'});
    for (const host of [
      '127.0.0.1:80',
      '127.0.0.2',
      '127.9.9.9:1',
      'localhost:8000',
      '[::1]:8000',
      'LOCALHOST',
    ]) {
      expect([host, await statusFor(host)]).toEqual([host, 200]);
    }
    for (const host of ['evil.example', '127.0.0.1.evil.example', '128.0.0.1', '[::2]', 'localhost.evil']) {
      expect([host, await statusFor(host)]).toEqual([host, 403]);
    }
    expect(warnings).toEqual([]);
  });

  test('a missing key causes a warning if others can reach the server', async () => {
    await start({host: '0.0.0.0'});
    expect(warnings).toEqual([
      expect.stringMatching(/^serve --host 0\.0\.0\.0: everyone who can reach this machine/),
    ]);
    expect(await statusFor('anything.example')).toBe(200);
    await server.close();
    await start({host: '0.0.0.0', apiKey: 'a key'});
    expect(warnings).toHaveLength(1);
    expect(await statusFor('anything.example')).toBe(401);
  });
});

describe('as in the OpenAI API', () => {
  test('each response has its own id', async () => {
    await start();
    const responses = [
      await post({messages, max_tokens: 1}),
      await post({messages: []}),
      await fetch(`${server.url}/models`),
      await fetch(`${server.url}/nothing`),
      await post({messages, max_tokens: 1, stream: true}),
    ];
    const ids = responses.map(({headers}) => headers.get('x-request-id'));
    for (const id of ids) expect(id).toMatch(/^req_[0-9a-f]{32}$/);
    expect(new Set(ids).size).toBe(ids.length);
    await responses[4].text();
  });

  test.each(['/chat/completions', '/completions'])(
    'chunks of %s have null for usage until the last',
    async (path) => {
      await start();
      const ask = async (options: object) => {
        const response = await post({messages, prompt: 'The', max_tokens: 3, stream: true, ...options}, path);
        const events = (await response.text()).split('\n\n').filter((event) => event.startsWith('data: {'));
        return events.map((event) => JSON.parse(event.slice(6)) as Record<string, unknown>);
      };
      const chunks = await ask({stream_options: {include_usage: true}});
      expect(chunks.length).toBeGreaterThan(2);
      expect(chunks.slice(0, -1).every(({usage}) => usage === null)).toBe(true);
      expect(chunks.at(-1)).toMatchObject({choices: [], usage: {completion_tokens: 3}});
      expect((await ask({})).some((chunk) => 'usage' in chunk)).toBe(false);
    },
  );
});
