import {createHash} from 'node:crypto';
import {createServer, type IncomingMessage, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';

export interface FakeRepository {
  kind: 'model' | 'dataset';
  id: string;
  commit: string;
  files: Record<string, string | Buffer>;
  /** Files stored as large ones: named by their SHA-256. */
  large?: string[];
  /** The README's front matter. */
  card?: unknown;
  token?: string;
  /** False answer about the repository: a value, or text as bytes. */
  info?: unknown;
  /** False list of files. */
  tree?: unknown;
}

/**
 * A hub on the loopback interface, which answers Hugging Face's API requests about repositories and sends their files.
 */
export class FakeHub {
  /** Requested paths, with the bytes when only a part was requested. */
  readonly requests: string[] = [];
  /** Number of bytes after which a file's download breaks off, `breaks` times. */
  breakAfter?: number;
  breaks = 1;
  /** Number of bytes of a file after which it sends nothing more, but leaves the connection open. */
  stallAfter?: number;
  /** Whether it sends whole files even when a part is requested. */
  ignoresRanges = false;
  /** Contents that it sends instead of a file's. */
  corruption?: Buffer;
  /** Status, number and headers of the answers that come first. */
  refusals?: {status: number; count: number; headers?: Record<string, string>};
  /** Whether it redirects every request to itself. */
  isLoop = false;
  /** Number of requests for a file that must arrive before it is sent. */
  together?: {path: string; count: number};
  /** Header of the last request. */
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

/** Converts an answer to text; bytes are sent unchanged. */
const json = (value: unknown, status = 200) => ({
  status,
  body: Buffer.isBuffer(value) ? value : JSON.stringify(value),
  headers: {'content-type': 'application/json'},
});

const refusal = (status: number, error: string) => json({error}, status);
