import {createHash} from 'node:crypto';
import {createServer, type IncomingMessage, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';

export interface FakeRepository {
  kind: 'model' | 'dataset';
  id: string;
  commit: string;
  files: Record<string, string | Buffer>;
  /** Files kept as large ones: named by their SHA-256. */
  large?: string[];
  /** The README's front matter. */
  card?: unknown;
  token?: string;
}

/** A hub on the loopback interface: what the interface of Hugging Face's says of repositories, and their files. */
export class FakeHub {
  /** Paths that were asked for, with the bytes where only a part was. */
  readonly requests: string[] = [];
  /** Breaks a file's download off after so many bytes, once. */
  breakAfter?: number;
  /** Sends this in place of a file's contents. */
  corruption?: Buffer;
  private readonly server: Server;

  constructor(private readonly repositories: FakeRepository[]) {
    this.server = createServer((request, response) => {
      const {status = 200, body = '', headers = {}} = this.answer(request);
      this.requests.push([request.url, request.headers.range].filter(Boolean).join(' '));
      response.writeHead(status, headers);
      if (this.breakAfter === undefined || !request.url?.includes('/resolve/')) {
        response.end(body);
        return;
      }
      const part = (body as Buffer).subarray(0, this.breakAfter);
      this.breakAfter = undefined;
      response.write(part, () => response.socket?.end());
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private answer({url = '', headers}: IncomingMessage) {
    const {pathname} = new URL(url, 'http://hub');
    const found = this.repositories.find(({kind, id}) =>
      [`/api/${kind}s/${id}/`, `/${kind === 'dataset' ? 'datasets/' : ''}${id}/resolve/`].some((start) =>
        pathname.startsWith(start),
      ),
    );
    if (!found) return refusal(404, 'Repository not found');
    if (found.token && headers.authorization !== `Bearer ${found.token}`)
      return refusal(401, 'Access to this repository is restricted');
    const {id, commit, card} = found;
    const [, , revision, ...rest] = pathname.slice(pathname.indexOf(id) + id.length).split('/');
    if (pathname.includes('/revision/'))
      return revision === 'main' || revision === commit
        ? json({_id: '1', id, sha: commit, cardData: card, lastModified: '2024-07-26T00:00:00.000Z'})
        : refusal(404, `Invalid rev id: ${revision}`);
    if (pathname.includes('/tree/')) return json(treeOf(found));
    const contents = found.files[decodeURIComponent(rest.join('/'))];
    if (contents === undefined) return refusal(404, 'Entry not found');
    const bytes = this.corruption ?? Buffer.from(contents as string);
    const start = Number(/bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0);
    return start > 0
      ? {
          status: 206,
          body: bytes.subarray(start),
          headers: {'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}`},
        }
      : {body: bytes, headers: {'content-length': bytes.length}};
  }
}

function treeOf({files, large = []}: FakeRepository) {
  const folders = new Set(Object.keys(files).flatMap((path) => path.split('/').slice(0, -1).join('/') || []));
  return [
    ...[...folders].map((path) => ({type: 'directory', path, size: 0, oid: ''})),
    ...Object.entries(files).map(([path, contents]) => {
      const bytes = Buffer.from(contents as string);
      const gitHash = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
      const oid = createHash('sha256').update(bytes).digest('hex');
      const lfs = large.includes(path) && {lfs: {oid, size: bytes.length, pointerSize: 130}};
      return {type: 'file', path, size: bytes.length, oid: gitHash, ...lfs};
    }),
  ];
}

const json = (value: unknown, status = 200) => ({
  status,
  body: JSON.stringify(value),
  headers: {'content-type': 'application/json'},
});

const refusal = (status: number, error: string) => json({error}, status);
