import {TfjsLoraError} from '../errors.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';

/**
 * Opens a file on a web server for fetching parts of it.
 *
 * @returns undefined when there is no such file, or the server does not send parts
 */
export async function urlBytes(url: string): Promise<FileBytes | undefined> {
  const first = await fetch(url, {headers: {range: 'bytes=0-0'}}).catch(() => undefined);
  await first?.body?.cancel();
  const size = Number(/\/(\d+)$/.exec(first?.headers.get('content-range') ?? '')?.[1]);
  if (first?.status !== 206 || !Number.isSafeInteger(size)) return undefined;
  return {
    size,
    async read(target, position) {
      const length = Math.min(target.length, size - position);
      if (length <= 0) return 0;
      const bytes = await fetchPart(url, position, length);
      target.set(bytes);
      return bytes.length;
    },
    close() {},
  };
}

async function fetchPart(url: string, position: number, length: number): Promise<Uint8Array> {
  const failed = (got: string, cause?: unknown) =>
    new TfjsLoraError(
      'NETWORK',
      `${url}: expected bytes ${position} to ${position + length - 1}, got ${got}. Check the network.`,
      {cause},
    );
  try {
    const response = await fetch(url, {headers: {range: `bytes=${position}-${position + length - 1}`}});
    if (response.status !== 206) throw failed(`status ${response.status}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (bytes.length === length) return bytes;
    throw failed(`${bytes.length} bytes`);
  } catch (cause) {
    throw cause instanceof TfjsLoraError ? cause : failed((cause as Error).message, cause);
  }
}
