import {readText} from '../../../quant/folders/folder.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';

/** A text file that grows line by line during training. */
export class LinesFile {
  constructor(
    private readonly folder: RunFolder,
    private readonly name: string,
  ) {}

  /**
   * Starts the file, or continues it: the first `count` lines stay, which the run's log had when its checkpoint was
   * made. A killed run leaves more, and perhaps an incomplete last line.
   *
   * @param header first line, which does not count
   */
  async open(count: number, header?: string): Promise<void> {
    const text = count === 0 ? undefined : await readText(this.folder, this.name).catch(() => undefined);
    const complete = (text ?? '').split('\n').slice(0, -1);
    const lines = complete.slice(header === undefined ? 0 : 1).slice(0, count);
    if (header !== undefined) lines.unshift(header);
    await this.folder.write(this.name, lines.map((line) => `${line}\n`).join(''));
  }

  append(line: string): Promise<void> {
    return this.folder.append(this.name, `${line}\n`);
  }
}
