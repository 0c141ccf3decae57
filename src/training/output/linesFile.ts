import {appendFileSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {onDisk} from '../../../quant/safetensors/diskErrors.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';

/** A text file that grows line by line during training. */
export class LinesFile {
  constructor(readonly path: string) {}

  /**
   * Starts the file, or continues it: the first `count` lines stay, which the run's log had when its checkpoint was
   * made. A killed run leaves more, and perhaps an incomplete last line.
   *
   * @param header first line, which does not count
   */
  async open(count: number, header?: string): Promise<void> {
    const text = count === 0 ? '' : await readFile(this.path, 'utf8').catch(() => '');
    const complete = text.split('\n').slice(0, -1);
    const lines = complete.slice(header === undefined ? 0 : 1).slice(0, count);
    if (header !== undefined) lines.unshift(header);
    writeWhole(this.path, lines.map((line) => `${line}\n`).join(''));
  }

  append(line: string): void {
    onDisk(this.path, 'The lines written so far are intact.', () => appendFileSync(this.path, `${line}\n`));
  }
}
