import {blobBytes} from '../safetensors/blobBytes.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import type {Folder} from './folder.ts';

/**
 * Opens a folder's file for reading parts of it; undefined when there is no such file. A folder without `openBytes` is
 * read at once.
 */
export async function openBytes(folder: Folder, name: string): Promise<FileBytes | undefined> {
  if (folder.openBytes) return folder.openBytes(name);
  const bytes = await folder.read(name);
  return bytes && blobBytes(new Blob([bytes as Uint8Array<ArrayBuffer>]), folder.pathOf(name));
}
