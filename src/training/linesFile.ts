import {appendFileSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {dirname} from 'node:path';
import {StagedFile, syncFolder} from '../../quant/safetensors/stagedFile.ts';

/** A text file that grows line by line while training goes on. */
export class LinesFile {
  constructor(readonly path: string) {}

  /**
   * Begins the file, or goes on with what is there: lines that `keep` refuses, as a run that was killed leaves them
   * beyond its last checkpoint, go, and so does a last line without its end.
   */
  async open(keep: (line: string) => boolean, header?: string): Promise<void> {
    const text = await readFile(this.path, 'utf8').catch(() => '');
    const lines = text.split('\n').slice(0, -1).filter(keep);
    if (header !== undefined) lines.unshift(header);
    writeWhole(this.path, lines.map((line) => `${line}\n`).join(''));
  }

  append(line: string): void {
    appendFileSync(this.path, `${line}\n`);
  }
}

/** Writes a file that is there whole or not at all. */
export function writeWhole(path: string, contents: string | Uint8Array): void {
  const file = new StagedFile(path);
  try {
    file.write(typeof contents === 'string' ? new TextEncoder().encode(contents) : contents);
    file.seal();
    file.publish();
  } catch (error) {
    file.discard();
    throw error;
  }
  syncFolder(dirname(path));
}
