import {existsSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {extname, join} from 'node:path';

/** The browser to test in. */
export const CHROMIUM = [process.env.TFJS_LORA_CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find(
  (path) => path && existsSync(path),
);

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** A web server of files. */
export interface Site {
  url: string;
  /** Paths that were requested, in order. */
  readonly requests: string[];
  close(): Promise<void>;
}

/**
 * Serves a folder.
 *
 * @param prelude code to run before a worker's own, by the beginning of its file's name
 */
export async function serveSite(folder: string, prelude: Record<string, string> = {}): Promise<Site> {
  const requests: string[] = [];
  const server: Server = createServer(async (request, response) => {
    const {pathname} = new URL(request.url!, 'http://host');
    requests.push(pathname);
    const path = join(folder, pathname === '/' ? 'index.html' : pathname);
    const bytes = await readFile(path).catch(() => undefined);
    if (!bytes) return response.writeHead(404).end();
    const [, first = ''] =
      Object.entries(prelude).find(([name]) => pathname.split('/').at(-1)!.startsWith(name)) ?? [];
    response.setHeader('content-type', TYPES[extname(path)] ?? 'application/octet-stream');
    response.end(Buffer.concat([Buffer.from(first), bytes]));
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    requests,
    close: () => new Promise((closed) => server.close(() => closed())),
  };
}
