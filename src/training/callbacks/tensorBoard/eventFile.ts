import {hostname} from 'node:os';
import type {RunFolder} from '../../../../quant/folders/runFolder.ts';
import {bytesField, doubleField, floatField, message, varintField} from '../../protobuf/protobuf.ts';
import {maskedCrc32c} from './crc32c.ts';

/** Field numbers of TensorFlow's `event.proto` and `summary.proto`. */
const EVENT = {wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7} as const;
const SUMMARY = {value: 1} as const;
const VALUE = {tag: 1, simpleValue: 2} as const;
const SESSION_LOG = {status: 1} as const;
const START = 1;

/**
 * A file for TensorBoard: `Event` messages framed as TFRecords, each with its length, the length's checksum, the
 * message and its checksum.
 */
export class EventFile {
  private constructor(
    private readonly folder: RunFolder,
    readonly name: string,
  ) {}

  /**
   * Starts a new file in a folder; TensorBoard reads all files of a folder as one run.
   *
   * @param firstStep step from which events in earlier files are void, because a resumed run repeats those steps.
   *   Default 0
   */
  static async start(folder: RunFolder, firstStep = 0, now = Date.now()): Promise<EventFile> {
    await folder.create();
    const stamp = `${Math.floor(now / 1000)}.${hostname()}`;
    const count = (await folder.names()).filter((name) => name.startsWith('events.out.tfevents.')).length;
    const file = new EventFile(folder, `events.out.tfevents.${stamp}.${count}`);
    await file.write(now, 0, bytesField(EVENT.fileVersion, 'brain.Event:2'));
    if (firstStep > 0) {
      const start = message(varintField(SESSION_LOG.status, START));
      await file.write(now, firstStep, bytesField(EVENT.sessionLog, start));
    }
    return file;
  }

  /** Adds numbers measured at a step, by their tags. */
  addScalars(step: number, scalars: Record<string, number>, now = Date.now()): Promise<void> {
    const values = Object.entries(scalars).map(([tag, value]) =>
      bytesField(SUMMARY.value, message(bytesField(VALUE.tag, tag), floatField(VALUE.simpleValue, value))),
    );
    return this.write(now, step, bytesField(EVENT.summary, message(...values)));
  }

  private async write(now: number, step: number, what: Uint8Array): Promise<void> {
    const event = message(doubleField(EVENT.wallTime, now / 1000), varintField(EVENT.step, step), what);
    await this.folder.append(this.name, framed(event));
  }
}

/** Frames data as a TFRecord. */
export function framed(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return record;
}
