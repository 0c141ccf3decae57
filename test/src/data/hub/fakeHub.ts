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
  /** What the hub says about the repository, in the place of the truth: a value, or text as bytes. */
  info?: unknown;
  /** What it lists, in the place of its files. */
  tree?: unknown;
}

/** A hub on the loopback interface: what the interface of Hugging Face's says of repositories, and their files. */
export class FakeHub {
  /** Paths that were asked for, with the bytes where only a part was. */
  readonly requests: string[] = [];
  /** Breaks a file's download off after so many bytes, `breaks` times. */
  breakAfter?: number;
  breaks = 1;
  /** Sends no more than so many bytes of a file, and leaves the connection open. */
  stallAfter?: number;
  /** Sends files whole, whatever part is asked for. */
  ignoresRanges = false;
  /** Sends this in place of a file's contents. */
  corruption?: Buffer;
  /** Answers of this status come first, so many of them, with these headers. */
  refusals?: {status: number; count: number; headers?: Record<string, string>};
  /** Every request is sent on to itself. */
  isLoop = false;
  /** Sends a file once so many have asked for it. */
  together?: {path: string; count: number};
  /** The last request's header. */
  authorization?: string;
  private readonly server: Server;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly repositories: FakeRepository[]) {
    this.server = createServer((request, response) => {
      const {url = ''} = request;
      this.requests.push([url, request.headers.range].filter(Boolean).join(' '));
      this.authorization = request.headers.authorization;
      const {status = 200, body = '', headers = {}} = this.answer(request);
      const send = () => {
        response.writeHead(status, headers);
        if (this.stallAfter !== undefined && url.includes('/resolve/')) {
          response.write((body as Buffer).subarray(0, this.stallAfter));
          if (body.length <= this.stallAfter) response.end();
          return;
        }
        if (this.breakAfter === undefined || !url.includes('/resolve/') || this.breaks === 0) {
          response.end(body);
          return;
        }
        this.breaks--;
        response.write((body as Buffer).subarray(0, this.breakAfter), () => response.socket?.end());
      };
      if (this.together === undefined || !url.endsWith(this.together.path)) return send();
      this.waiting.push(send);
      if (this.waiting.length >= this.together.count) for (const each of this.waiting.splice(0)) each();
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
    if (this.isLoop) return {status: 302, headers: {location: url}};
    if (this.refusals && this.refusals.count-- > 0)
      return {...refusal(this.refusals.status, 'Busy'), headers: {...this.refusals.headers}};
    const {pathname} = new URL(url, 'http://hub');
    const found = this.repositories.find(({kind, id}) =>
      [`/api/${kind}s/${id}/`, `/${kind === 'dataset' ? 'datasets/' : ''}${id}/resolve/`].some((start) =>
        pathname.startsWith(start),
      ),
    );
    if (!found) return refusal(404, 'Repository not found');
    if (found.token && headers.authorization !== `Bearer ${found.token}`)
      return refusal(401, 'Access to this repository is restricted');
    const {id, commit, card, info, tree} = found;
    const [, , revision, ...rest] = pathname.slice(pathname.indexOf(id) + id.length).split('/');
    if (pathname.includes('/revision/') && info !== undefined) return json(info);
    if (pathname.includes('/revision/'))
      return revision === 'main' || revision === commit
        ? json({_id: '1', id, sha: commit, cardData: card, lastModified: '2024-07-26T00:00:00.000Z'})
        : refusal(404, `Invalid rev id: ${revision}`);
    if (pathname.includes('/tree/')) return json(tree === undefined ? treeOf(found) : tree);
    const contents = found.files[decodeURIComponent(rest.join('/'))];
    if (contents === undefined) return refusal(404, 'Entry not found');
    const bytes = this.corruption ?? Buffer.from(contents as string);
    const start = Number(/bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0);
    return start > 0 && !this.ignoresRanges
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

/** A text as bytes is sent as it is. */
const json = (value: unknown, status = 200) => ({
  status,
  body: Buffer.isBuffer(value) ? value : JSON.stringify(value),
  headers: {'content-type': 'application/json'},
});

const refusal = (status: number, error: string) => json({error}, status);
