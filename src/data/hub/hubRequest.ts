import {TfjsLoraError} from '../../../quant/errors.ts';
import {keepSecret} from '../../../quant/maskSecrets.ts';
import {DEFAULT_ENDPOINT, type HubOptions} from './hubOptions.ts';
import {TransientError} from './retry.ts';

/** Statuses after which another attempt may succeed. */
const TRANSIENT_STATUS = [408, 425, 429, 500, 502, 503, 504];

/** Connection failures that another attempt would meet again. */
const LASTING_FAILURE = /redirect count exceeded|certificate|^CERT_|_CERT|unknown scheme|HTTP\(S\) scheme/i;

/** The hub's address and its credentials. */
export interface HubAddress {
  /** Address without credentials and without a trailing slash. */
  endpoint: string;
  authorization?: string;
}

/**
 * Returns the hub's address. Credentials in it become a header, as in Python, because `fetch` refuses them in an
 * address.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when it is not an HTTP address
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

/** Returns the authorization header for an address's credentials, if it has any. */
export function basicAuthorization({username, password}: URL): string | undefined {
  if (!username && !password) return undefined;
  const credentials = [username, password].map(decoded).join(':');
  return `Basic ${Buffer.from(credentials).toString('base64')}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a literal percent sign
  }
}

/**
 * Sends one request. The authorization header goes only to the hub: `fetch` drops it when a redirect leads to another
 * host.
 *
 * @returns the response, unless another attempt may help; also a refusal such as 404
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

/** Returns why a request failed: Node's fetch only says "fetch failed", and gives the reason in the cause. */
export function reasonOf(error: unknown): string {
  const {message, cause} = error as Error & {cause?: {message?: string; code?: string}};
  return [cause?.code, cause?.message].filter(Boolean).join(': ') || message;
}

/** Returns the milliseconds that `Retry-After` asks for, as seconds or as a date. */
function waitAskedFor(headers: Headers): number {
  const given = headers.get('retry-after');
  if (given === null) return 0;
  const wait = /^\d+$/.test(given) ? 1000 * Number(given) : Date.parse(given) - Date.now();
  return Math.max(wait || 0, 0);
}
