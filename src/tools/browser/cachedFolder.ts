import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Folder} from '../../../quant/folders/folder.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import type {FileBytes} from '../../../quant/safetensors/fileBytes.ts';
import type {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import type {StorageFolder} from './storageFolder.ts';

/** State of a download. */
export interface DownloadProgress {
  file: string;
  /** Bytes of the file so far. */
  bytes: number;
  /** Bytes of the whole file, if the server says. */
  total?: number;
}

export interface CachedFolderOptions {
  /** Called as a file arrives. */
  onProgress?: (progress: DownloadProgress) => void;
  /** Stops a download, with the signal's reason as the error; no part of its file is kept. */
  signal?: AbortSignal;
}
const CACHED_FOLDER_OPTIONS = {
  onProgress: true,
  signal: true,
} satisfies OptionNames<CachedFolderOptions>;

/** Name of the empty file that says that the server has none of that name, so that it is not asked again. */
const absent = (name: string): string => `${name}.absent`;

/**
 * A folder behind a URL whose files are kept in the browser's storage: each is downloaded once, straight into the
 * storage, and read from there afterwards, even offline. To download again, remove the files from the storage.
 * Downloading needs a dedicated worker, as {@link StorageFolder} does.
 *
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {CachedFolder, StorageFolder} from 'tfjs-lora/browser';
 *
 * const url = 'https://example.org/Llama-3.2-1B/';
 * const model = await Llama.fromPretrained(new CachedFolder(url, new StorageFolder('models/llama')));
 * ```
 */
export class CachedFolder implements Folder {
  readonly path: string;

  /** @param url the folder's URL; a missing slash at its end is added */
  constructor(
    url: URL | string,
    private readonly storage: StorageFolder,
    private readonly options: CachedFolderOptions = {},
  ) {
    assertKnownOptions('CachedFolder', options, CACHED_FOLDER_OPTIONS);
    const folder = new URL(url);
    if (!folder.pathname.endsWith('/')) folder.pathname += '/';
    this.path = folder.href;
  }

  pathOf(name: string): string {
    return new URL(name, this.path).href;
  }

  async exists(): Promise<boolean> {
    return true; // servers only answer for files
  }

  async names(): Promise<undefined> {
    return undefined;
  }

  async has(name: string): Promise<boolean> {
    const known = await this.known(name);
    if (known !== undefined) return known;
    // Another tab, or another call, may be downloading it.
    return navigator.locks.request(
      `tfjs-lora ${this.storage.pathOf(name)}`,
      {signal: this.options.signal},
      async () => {
        const known = await this.known(name);
        if (known !== undefined) return known;
        const isThere = await this.download(name);
        if (!isThere) await this.storage.write(absent(name), '');
        return isThere;
      },
    );
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    return (await this.has(name)) ? this.storage.read(name) : undefined;
  }

  async openBytes(name: string): Promise<FileBytes | undefined> {
    return (await this.has(name)) ? this.storage.openBytes(name) : undefined;
  }

  /** @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE` */
  async openSafetensors(name: string): Promise<SafetensorsFile> {
    if (await this.has(name)) return this.storage.openSafetensors(name);
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `safetensors file [${this.pathOf(name)}]: expected a file, got none there. Check the URL.`,
    );
  }

  /** Whether the server has a file, or undefined when it was not asked yet. */
  private async known(name: string): Promise<boolean | undefined> {
    if (await this.storage.has(name)) return true;
    return (await this.storage.has(absent(name))) ? false : undefined;
  }

  /**
   * Downloads a file into the storage.
   *
   * @returns whether the server has it
   */
  private async download(name: string): Promise<boolean> {
    const {signal} = this.options;
    const failed = (got: string, cause?: unknown) =>
      new TfjsLoraError(
        'NETWORK',
        `${this.pathOf(name)}: expected a file, got ${got}. Check the URL and the network.`,
        {cause},
      );
    const response = await fetch(this.pathOf(name), {signal}).catch((cause) => {
      throw signal?.aborted ? signal.reason : failed((cause as Error).message, cause);
    });
    // Servers of web applications send their page when there is no such file.
    if (response.status === 404 || response.headers.get('content-type')?.startsWith('text/html')) {
      await response.body?.cancel();
      return false;
    }
    if (!response.ok || !response.body) throw failed(`status ${response.status}`);
    const isEncoded = response.headers.has('content-encoding'); // then the length is that of other bytes
    const total = isEncoded ? undefined : Number(response.headers.get('content-length')) || undefined;
    await this.storage.writePieces(name, this.piecesOf(name, response.body, total, failed), total);
    return true;
  }

  private async *piecesOf(
    file: string,
    body: ReadableStream<Uint8Array>,
    total: number | undefined,
    failed: (got: string, cause?: unknown) => TfjsLoraError,
  ): AsyncGenerator<Uint8Array> {
    const {signal, onProgress} = this.options;
    const reader = body.getReader();
    let bytes = 0;
    try {
      for (;;) {
        const {done, value} = await reader.read().catch((cause) => {
          throw signal?.aborted ? signal.reason : failed((cause as Error).message, cause);
        });
        if (done) return;
        bytes += value.length;
        yield value;
        onProgress?.({file, bytes, ...(total !== undefined && {total})});
      }
    } finally {
      await reader.cancel().catch(() => {}); // so that nothing more is downloaded after an error
    }
  }
}
