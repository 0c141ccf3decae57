import {createHash} from 'node:crypto';
import {readFile, rename, stat, writeFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {inflateSync} from 'node:zlib';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';

/** The typeface of plots: PT Sans (ParaType, SIL Open Font License), from `@fontsource/pt-sans`. */
export const PLOT_FONT = 'PT Sans';
const WEIGHTS = ['400', '700'];

/**
 * Returns font files that a renderer without system fonts can read, so that plots have the same text on all machines.
 * The package contains WOFF files, which are unwrapped once into the system's temporary folder.
 *
 * @returns paths of TrueType files, regular and bold
 */
export function plotFontFiles(): Promise<string[]> {
  const {resolve} = createRequire(import.meta.url);
  return Promise.all(
    WEIGHTS.map(async (weight) => {
      const woff = await readFile(resolve(`@fontsource/pt-sans/files/pt-sans-latin-${weight}-normal.woff`));
      const digest = createHash('sha256').update(woff).digest('hex').slice(0, 16);
      const folder = join(tmpdir(), 'tfjs-lora-fonts');
      const path = join(folder, `${digest}.ttf`);
      const font = unwrapWoff(woff, 'PT Sans');
      const isThere = await stat(path).then(
        ({size}) => size === font.length,
        () => false,
      );
      if (!isThere) {
        makeFolder(folder);
        // Renamed only when complete, because another process may want the same file at the same time.
        const draft = `${path}.${Math.random().toString(36).slice(2)}`;
        await writeFile(draft, font);
        await rename(draft, path);
      }
      return path;
    }),
  );
}

/**
 * Extracts the TrueType or OpenType font from a WOFF 1.0 file (W3C), which has the same tables, possibly deflated,
 * under a shorter header.
 *
 * @param where name of the font in errors
 * @throws TfjsLoraError `CORRUPT_FILE`
 */
export function unwrapWoff(woff: Buffer, where: string): Buffer {
  if (woff.length < 44 || woff.toString('latin1', 0, 4) !== 'wOFF') {
    throw new TfjsLoraError('CORRUPT_FILE', `font ${where}: expected a WOFF 1.0 file, got something else`);
  }
  const tables = woff.readUInt16BE(12);
  const entries = Array.from({length: tables}, (_, index) => {
    const at = 44 + 20 * index;
    const [offset, packedLength, length] = [4, 8, 12].map((byte) => woff.readUInt32BE(at + byte));
    const packed = woff.subarray(offset, offset + packedLength);
    const data = packedLength < length ? inflateSync(packed) : packed;
    if (data.length !== length) {
      const tag = woff.toString('latin1', at, at + 4);
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `font ${where} table ${tag}: expected ${length} bytes, got ${data.length}`,
      );
    }
    return {tag: woff.subarray(at, at + 4), checksum: woff.subarray(at + 16, at + 20), data};
  });
  const header = Buffer.alloc(12 + 16 * tables);
  woff.copy(header, 0, 4, 8); // flavour: TrueType or OpenType
  const power = Math.floor(Math.log2(tables));
  header.writeUInt16BE(tables, 4);
  header.writeUInt16BE(16 * 2 ** power, 6); // search range, entry selector, range shift
  header.writeUInt16BE(power, 8);
  header.writeUInt16BE(16 * (tables - 2 ** power), 10);
  const parts: Buffer[] = [header];
  let offset = header.length;
  entries.forEach(({tag, checksum, data}, index) => {
    const at = 12 + 16 * index;
    tag.copy(header, at);
    checksum.copy(header, at + 4);
    header.writeUInt32BE(offset, at + 8);
    header.writeUInt32BE(data.length, at + 12);
    const padding = Buffer.alloc(-data.length & 3); // tables start at multiples of four bytes
    parts.push(data, padding);
    offset += data.length + padding.length;
  });
  return Buffer.concat(parts);
}
