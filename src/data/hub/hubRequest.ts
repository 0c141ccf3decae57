import {TfjsLoraError} from '../../../quant/errors.ts';
import {keepSecret} from '../../../quant/maskSecrets.ts';
import {DEFAULT_ENDPOINT, type HubOptions} from './hubOptions.ts';
import {TransientError} from './retry.ts';

/** Answers that say "later". */
const TRANSIENT_STATUS = [408, 425, 429, 500, 502, 503, 504];

/** Failures of a connection that another attempt would meet again. */
const LASTING_FAILURE = /redirect count exceeded|certificate|^CERT_|_CERT|unknown scheme|HTTP\(S\) scheme/i;

/** Where requests go, and what opens the door. */
export interface HubAddress {
  /** Without credentials and without a slash at its end. */
  endpoint: string;
  authorization?: string;
}

/**
 * The hub's address. Credentials in it become a header, as they do in Python: `fetch` takes none in an address.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when it is no address of HTTP
 */
export function hubAddress({endpoint: given = DEFAULT_ENDPOINT, token}: HubOptions): HubAddress {
  keepSecret(token);
  keepSecret(given);
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `hub endpoint: expected an address such as ${DEFAULT_ENDPOINT}, got ${given}. Correct HF_ENDPOINT.`,
    );
  }
  const authorization = token === undefined ? basicAuthorization(url) : `Bearer ${token}`;
  const endpoint = `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
  return {endpoint, ...(authorization && {authorization})};
}

/** The header for an address's credentials, where it has some. */
export function basicAuthorization({username, password}: URL): string | undefined {
  if (!username && !password) return undefined;
  const credentials = [username, password].map(decoded).join(':');
  return `Basic ${Buffer.from(credentials).toString('base64')}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that stands for itself
  }
}

/**
 * One request. The header goes to the hub only: `fetch` drops it where a redirect leads to another host.
 *
 * @returns any response that another attempt would not mend, 404 for one
 * @throws TransientError when another attempt may help; TfjsLoraError `NETWORK` when none would
 */
export async function hubRequest(
  url: string,
  {endpoint, authorization}: HubAddress,
  {headers = {}, signal}: {headers?: Record<string, string>; signal?: AbortSignal},
): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, {headers: {...headers, ...(authorization && {authorization})}, signal});
  } catch (cause) {
    signal?.throwIfAborted();
    const reason = reasonOf(cause);
    if (!LASTING_FAILURE.test(reason)) throw new TransientError(reason);
    throw new TfjsLoraError('NETWORK', `${endpoint} cannot be reached: ${reason}`, {cause});
  }
  if (!TRANSIENT_STATUS.includes(response.status)) return response;
  await response.body?.cancel();
  throw new TransientError(`status ${response.status}`, waitAskedFor(response.headers));
}

/** Node's fetch says "fetch failed", and why in the cause. */
export function reasonOf(error: unknown): string {
  const {message, cause} = error as Error & {cause?: {message?: string; code?: string}};
  return [cause?.code, cause?.message].filter(Boolean).join(': ') || message;
}

/** Milliseconds of `Retry-After`: seconds, or a date. */
function waitAskedFor(headers: Headers): number {
  const given = headers.get('retry-after');
  if (given === null) return 0;
  const wait = /^\d+$/.test(given) ? 1000 * Number(given) : Date.parse(given) - Date.now();
  return Math.max(wait || 0, 0);
}
