import {createHash} from 'node:crypto';
import {createReadStream, createWriteStream} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {homedir} from 'node:os';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import type {ReadableStream} from 'node:stream/web';
import {z} from 'zod';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {keepSecret} from '../../../quant/maskSecrets.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {basicAuthorization} from '../../data/hub/hubRequest.ts';

const ACCEPT = 'application/vnd.pypi.simple.v1+json, text/html;q=0.5';

/** A wheel in an index. */
export interface Wheel {
  filename: string;
  version: string;
  url: string;
  sha256?: string;
  /** Credentials of the index, if the file is on the index's own host. */
  authorization?: string;
}

/** The platform of the wheels that run here. */
export interface WheelPlatform {
  /** `linux` or `darwin`, as Node names them. */
  os: string;
  /** `x64` or `arm64`. */
  arch: string;
}

/**
 * Returns the package index that is configured for pip: `PIP_INDEX_URL`, or `index-url` in pip's configuration. Only
 * pip itself knows its default.
 *
 * @param environment variables of the process
 * @throws Error when no index is configured
 */
export async function packageIndex(environment: Record<string, string | undefined>): Promise<string> {
  const given = environment.PIP_INDEX_URL ?? (await configuredIndex(environment));
  keepSecret(given);
  if (!given) throw new Error('no index set (PIP_INDEX_URL, or index-url in pip’s configuration)');
  return given.replace(/\/+$/, '');
}

async function configuredIndex(environment: Record<string, string | undefined>): Promise<string | undefined> {
  const {PIP_CONFIG_FILE, XDG_CONFIG_HOME, VIRTUAL_ENV} = environment;
  const home = homedir();
  const files = [
    PIP_CONFIG_FILE,
    VIRTUAL_ENV && join(VIRTUAL_ENV, 'pip.conf'),
    join(XDG_CONFIG_HOME ?? join(home, '.config'), 'pip', 'pip.conf'),
    join(home, '.pip', 'pip.conf'),
    '/etc/xdg/pip/pip.conf',
    '/etc/pip.conf',
  ];
  for (const file of files) {
    const text = file && (await readFile(file, 'utf8').catch(() => undefined));
    const url = text && /^\s*index[-_]url\s*[=:]\s*(\S+)/m.exec(text)?.[1];
    if (url) return url;
  }
  return undefined;
}

/**
 * Finds the newest wheel of a project for a platform. Its Python version does not matter, because only the native
 * libraries are used. Pre-releases and yanked wheels are only found by their version.
 *
 * @param index address of a simple index, JSON (PEP 691) or HTML (PEP 503)
 * @throws TfjsLoraError `FILE_NOT_FOUND` when there is no such wheel, naming the versions that exist
 */
export async function findWheel(
  index: string,
  project: string,
  platform: WheelPlatform,
  version?: string,
): Promise<Wheel> {
  const {address, authorization} = addressOf(`${index}/${project}/`);
  const response = await fetch(address, {headers: {accept: ACCEPT, ...(authorization && {authorization})}});
  if (!response.ok)
    throw new Error(`${address} answered ${response.status} ${response.statusText}`.trimEnd());
  const isJson = response.headers.get('content-type')?.includes('json');
  const text = await boundedText(response);
  const files = isJson ? filesOfJson(text, response.url) : filesOfHtml(text, response.url);
  const fitting = files
    .filter(({filename}) => fits(filename, platform))
    .map((file) => ({...file, version: versionOf(file.filename)}));
  const wheels = fitting
    .filter((wheel) => (version ? wheel.version === version : isRelease(wheel.version) && !wheel.isYanked))
    .sort((a, b) => compareVersions(b.version, a.version));
  if (wheels.length > 0) {
    const [wheel] = wheels;
    const isIndexs = new URL(wheel.url).origin === new URL(address).origin;
    return {...wheel, ...(isIndexs && authorization && {authorization})};
  }
  const offered = [...new Set(fitting.map((wheel) => wheel.version))].filter(isRelease).sort(compareVersions);
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `wheel of ${project} ${version ?? ''} for ${platform.os} ${platform.arch}: expected one in the package index, got ` +
      `${offered.length > 0 ? offered.slice(-12).join(', ') : 'none'}. Pass one of these as --version.`,
  );
}

/** Moves the credentials of an address into a header, because `fetch` does not accept them in the address. */
function addressOf(index: string): {address: string; authorization?: string} {
  const url = new URL(index);
  const authorization = basicAuthorization(url);
  url.username = '';
  url.password = '';
  return {address: url.href, authorization};
}

/** Limit in bytes for a page of an index, far above the largest. */
const MAX_PAGE = 1 << 26;

async function boundedText(response: Response): Promise<string> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of response.body ?? []) {
    pieces.push(piece);
    length += piece.length;
    if (length > MAX_PAGE) throw new Error(`${response.url}: expected at most ${MAX_PAGE} bytes, got more`);
  }
  return Buffer.concat(pieces).toString('utf8');
}

/**
 * Downloads a wheel and checks its SHA-256 if the index has one.
 *
 * @returns the file's SHA-256
 * @throws TfjsLoraError `CORRUPT_FILE` when the hashes differ
 */
export async function downloadWheel(
  {url, filename, sha256, authorization}: Wheel,
  to: string,
): Promise<string> {
  const response = await fetch(url, {headers: authorization ? {authorization} : {}});
  if (!response.ok || !response.body)
    throw new Error(`${filename}: the index answered ${response.status} ${response.statusText}`.trimEnd());
  await pipeline(Readable.fromWeb(response.body as ReadableStream), createWriteStream(to));
  return assertHash(to, filename, sha256);
}

/**
 * Checks the SHA-256 of a downloaded wheel.
 *
 * @returns the file's SHA-256
 * @throws TfjsLoraError `CORRUPT_FILE` when it differs from the expected one
 */
export async function assertHash(
  path: string,
  filename: string,
  expected: string | undefined,
): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  const digest = hash.digest('hex');
  if (expected === undefined || digest === expected) return digest;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${filename}: expected SHA-256 ${expected}, got ${digest}. Download it again.`,
  );
}

interface IndexedFile {
  filename: string;
  url: string;
  sha256?: string;
  isYanked: boolean;
}

const pageSchema = z.object({
  files: z.array(
    z.object({
      filename: z.string(),
      url: z.string(),
      hashes: z.object({sha256: z.string().optional()}).nullish(),
      yanked: z.union([z.boolean(), z.string()]).nullish(),
    }),
  ),
});

function filesOfJson(text: string, base: string): IndexedFile[] {
  const {files} = pageSchema.parse(parseJson(text));
  return files.map(({filename, url, hashes, yanked}) => ({
    filename,
    url: new URL(url, base).href,
    sha256: hashes?.sha256?.toLowerCase(),
    isYanked: Boolean(yanked),
  }));
}

function filesOfHtml(page: string, base: string): IndexedFile[] {
  return [...page.matchAll(/<a\s([^>]*)>([^<]*)<\/a>/g)].flatMap(([, attributes, text]) => {
    const href = /href="([^"]*)"/.exec(attributes)?.[1].replaceAll('&amp;', '&');
    if (!href) return [];
    const url = new URL(href, base);
    const sha256 = /^#sha256=([0-9a-f]{64})/i.exec(url.hash)?.[1].toLowerCase();
    url.hash = '';
    return [{filename: text.trim(), url: url.href, sha256, isYanked: attributes.includes('data-yanked')}];
  });
}

/** Name of a wheel, such as `tensorflow_cpu-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl`. */
const WHEEL = /^([\w.]+)-([\w.!+]+)(?:-\d[\w.]*)?-([\w.]+)-([\w.]+)-([\w.]+)\.whl$/;

function fits(filename: string, {os, arch}: WheelPlatform): boolean {
  const platforms = WHEEL.exec(filename)?.[5] ?? '';
  const machine = arch === 'x64' ? 'x86_64' : os === 'darwin' ? 'arm64' : 'aarch64';
  const system = os === 'darwin' ? 'macosx' : os === 'linux' ? 'manylinux' : os;
  return platforms.split('.').some((tag) => tag.startsWith(system) && tag.endsWith(machine));
}

function versionOf(filename: string): string {
  return (WHEEL.exec(filename) as RegExpExecArray)[2];
}

const isRelease = (version: string) => /^\d+(\.\d+)*$/.test(version);

/** Compares two versions; the result is negative if `a` is older. */
export function compareVersions(a: string, b: string): number {
  const [as, bs] = [a, b].map((version) => version.split('.').map((part) => Number.parseInt(part, 10)));
  for (let i = 0; i < Math.max(as.length, bs.length); i++) {
    const difference = (as[i] ?? 0) - (bs[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
