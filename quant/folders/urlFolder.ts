import {TfjsLoraError} from '../errors.ts';
import {blobBytes} from '../safetensors/blobBytes.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import type {Folder} from './folder.ts';
import {urlBytes} from './urlBytes.ts';

/** A folder on a web server: the page's own, or Hugging Face's hub (`…/resolve/main/`). */
export class UrlFolder implements Folder {
  readonly path: string;
  /** Files that were requested and not yet used. */
  private readonly fetched = new Map<string, Promise<Blob | undefined>>();

  /** @param url the folder's URL; a missing slash at its end is added */
  constructor(url: URL | string) {
    const folder = new URL(url);
    if (!folder.pathname.endsWith('/')) folder.pathname += '/';
    this.path = folder.href;
  }

  pathOf(name: string): string {
    const url = new URL(this.path);
    url.pathname += name;
    return url.href;
  }

  async exists(): Promise<boolean> {
    return true; // servers only answer for files
  }

  async has(name: string): Promise<boolean> {
    return (await this.peek(name)) !== undefined;
  }

  async names(): Promise<undefined> {
    return undefined;
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    const bytes = await (await this.take(name))?.arrayBuffer();
    return bytes && new Uint8Array(bytes);
  }

  /** Fetches only the parts that are read, from a server that sends parts of files; otherwise the whole file, once. */
  async openBytes(name: string): Promise<FileBytes | undefined> {
    const parts = this.fetched.has(name) ? undefined : await urlBytes(this.pathOf(name));
    if (parts) return parts;
    const file = await this.peek(name);
    return file && blobBytes(file, this.pathOf(name));
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    const blob = await this.take(name);
    if (blob) return SafetensorsFile.fromBlob(blob, this.pathOf(name));
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `safetensors file [${this.pathOf(name)}]: expected a file, got none there. Check the URL.`,
    );
  }

  private peek(name: string): Promise<Blob | undefined> {
    let file = this.fetched.get(name);
    if (!file) {
      file = this.fetch(name);
      this.fetched.set(name, file);
    }
    return file;
  }

  private async take(name: string): Promise<Blob | undefined> {
    const file = this.peek(name);
    this.fetched.delete(name);
    return file;
  }

  private async fetch(name: string): Promise<Blob | undefined> {
    const url = this.pathOf(name);
    const failed = (got: string, cause?: unknown) =>
      new TfjsLoraError(
        'FILE_NOT_FOUND',
        `${url}: expected a file, got ${got}. Check the URL and the network.`,
        {
          cause,
        },
      );
    try {
      const response = await fetch(url);
      if (response.status === 404 || isPage(response)) {
        await response.body?.cancel();
        return undefined;
      }
      if (!response.ok) throw failed(`status ${response.status}`);
      return await response.blob();
    } catch (cause) {
      throw cause instanceof TfjsLoraError ? cause : failed((cause as Error).message, cause);
    }
  }
}

/** Whether a response is a page, which servers of web applications send when there is no such file. */
function isPage(response: Response): boolean {
  return response.headers.get('content-type')?.startsWith('text/html') ?? false;
}
