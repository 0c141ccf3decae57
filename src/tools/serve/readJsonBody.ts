import type {IncomingMessage} from 'node:http';
import {parseJson} from '../../../quant/parseJson.ts';
import {ApiError} from './apiError.ts';

/**
 * Reads the JSON body of a request.
 *
 * @param maxBytes largest size of the body
 * @throws ApiError 415 if its type is not JSON, 413 if it is too large, 400 if it cannot be parsed
 */
export async function readJsonBody(request: IncomingMessage, maxBytes = 4e6): Promise<unknown> {
  const type = request.headers['content-type'] ?? '';
  if (!/^application\/json\b/i.test(type)) {
    throw new ApiError(
      415,
      `Content-Type: expected application/json, got ${type || 'none'}. Send it as a header (curl: -H 'Content-Type: application/json').`,
    );
  }
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > maxBytes) throw new ApiError(413, `body: expected at most ${maxBytes} bytes, got more.`);
    parts.push(part);
  }
  try {
    return parseJson(new TextDecoder('utf-8', {fatal: true}).decode(Buffer.concat(parts)));
  } catch (error) {
    throw new ApiError(400, `body: expected JSON, got: ${(error as Error).message}`);
  }
}
