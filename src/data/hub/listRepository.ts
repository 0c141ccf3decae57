import {datasetInfo, listFiles, modelInfo} from '@huggingface/hub';
import {z} from 'zod';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {show} from '../../../quant/show.ts';
import type {HubOptions} from './hubOptions.ts';
import {type HubAddress, hubAddress, hubRequest, reasonOf} from './hubRequest.ts';
import {IdleSignal, type RetryOptions, retry, TransientError} from './retry.ts';

export interface HubRepository {
  kind: 'model' | 'dataset';
  /** `org/name` */
  id: string;
  /** A branch, tag or commit. Default `main`. */
  revision?: string;
}

/** A file as listed by the hub. */
export interface HubFile {
  path: string;
  size: number;
  /** Hash of a large file. */
  sha256?: string;
  /** Hash of any other file: git's name for the contents. */
  gitHash?: string;
}

/** Contents of a repository at one commit, as the hub reports them; no path in it has been checked for safety. */
export interface RepositoryListing {
  commit: string;
  files: Map<string, HubFile>;
  /** Front matter of its README. */
  card?: unknown;
}

export const COMMIT = /^[0-9a-f]{40}$/;

/** Limits for the bytes of one answer and the files of one repository: far more than any real one has. */
const [MAX_ANSWER, MAX_FILES] = [1 << 26, 1_000_000];

const about = z.object({sha: z.string().regex(COMMIT), cardData: z.unknown().optional()});
const entry = z.object({
  type: z.string(),
  path: z.string().max(4096),
  size: z.int().min(0),
  oid: z.string().optional(),
  lfs: z.object({oid: z.string(), size: z.int().min(0)}).nullish(),
});

/**
 * Lists a repository on the hub.
 *
 * @throws TfjsLoraError `NETWORK` when the hub cannot be reached or the server is not a hub; `FILE_NOT_FOUND` when the
 *   hub refuses
 */
export async function listRepository(
  repository: HubRepository,
  options: HubOptions,
  attempts: RetryOptions,
): Promise<RepositoryListing> {
  const {kind, id, revision = 'main'} = repository;
  const address = hubAddress(options);
  const access = {hubUrl: address.endpoint, fetch: boundedFetch(address, attempts)};
  try {
    const wanted = {name: id, revision, additionalFields: ['sha' as const, 'cardData' as const], ...access};
    const answer = kind === 'model' ? await modelInfo(wanted) : await datasetInfo(wanted);
    const {sha: commit, cardData: card} = checked(about, answer, 'about the repository');
    const files = new Map<string, HubFile>();
    for await (const item of listFiles({
      repo: {type: kind, name: id},
      revision: commit,
      recursive: true,
      ...access,
    })) {
      const {type, path, size, oid, lfs} = checked(entry, item, 'about a file');
      if (type === 'file') files.set(path, {path, size: lfs?.size ?? size, sha256: lfs?.oid, gitHash: oid});
      if (files.size > MAX_FILES) throw new SyntaxError(`expected at most ${MAX_FILES} files, got more`);
    }
    return {commit, files, card};
  } catch (cause) {
    attempts.signal?.throwIfAborted();
    throw cause instanceof TfjsLoraError ? cause : refusal(cause as Error, repository, address);
  }
}

function refusal(cause: Error & {statusCode?: number}, repository: HubRepository, {endpoint}: HubAddress) {
  const {kind, id, revision = 'main'} = repository;
  const {statusCode = 500, message} = cause;
  if (statusCode >= 500) {
    return new TfjsLoraError(
      'NETWORK',
      `${endpoint} cannot be reached: the server that answers is not a hub (${message})`,
      {cause},
    );
  }
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `${kind} ${id}${revision === 'main' ? '' : ` at ${revision}`}: expected a repository of ` +
      `${endpoint}, got ${statusCode}: ${message}. ` +
      'Check the name; for a gated or private repository, accept its terms on the hub and set HF_TOKEN.',
    {cause},
  );
}

function checked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const {success, data, error} = schema.safeParse(value);
  if (success) return data;
  const [{path, message}] = error.issues;
  throw new SyntaxError(`${what}: ${path.join('.') || 'all'}: ${message}, got ${show(value)}`);
}

/** Returns a `fetch` for the hub's client that retries, stays on the hub's host, and limits the length of an answer. */
function boundedFetch(address: HubAddress, attempts: RetryOptions): typeof fetch {
  return async (input) => {
    const url = String(input);
    if (new URL(url).origin !== new URL(address.endpoint).origin) {
      throw new SyntaxError(`the next page is at another host, ${url}`);
    }
    return retry(`${address.endpoint} cannot be reached`, attempts, async () => {
      const idle = new IdleSignal(attempts);
      try {
        const headers = {accept: 'application/json'};
        return await boundedResponse(await hubRequest(url, address, {headers, signal: idle.signal}), idle);
      } finally {
        idle.stop();
      }
    });
  };
}

async function boundedResponse(response: Response, idle: IdleSignal): Promise<Response> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  try {
    for await (const piece of response.body ?? []) {
      idle.refresh();
      pieces.push(piece);
      length += piece.length;
      if (length > MAX_ANSWER) break;
    }
  } catch (error) {
    idle.signal.throwIfAborted();
    throw new TransientError(reasonOf(error));
  }
  if (length > MAX_ANSWER) throw new SyntaxError(`expected at most ${MAX_ANSWER} bytes, got more`);
  const text = Buffer.concat(pieces).toString('utf8');
  if (response.ok) parseJson(text); // limits the depth
  const {status, headers, url} = response;
  return Object.defineProperty(new Response(text || null, {status, headers}), 'url', {value: url});
}
