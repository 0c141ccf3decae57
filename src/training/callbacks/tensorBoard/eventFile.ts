import * as fs from 'node:fs';
import {hostname} from 'node:os';
import {join} from 'node:path';
import {onDisk} from '../../../../quant/safetensors/diskErrors.ts';
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
  readonly path: string;

  /**
   * Starts a new file in a folder; TensorBoard reads all files of a folder as one run.
   *
   * @param firstStep step from which events in earlier files are void, because a resumed run repeats those steps.
   *   Default 0
   */
  constructor(folder: string, firstStep = 0, now = Date.now()) {
    fs.mkdirSync(folder, {recursive: true});
    const stamp = `${Math.floor(now / 1000)}.${hostname()}`;
    const count = fs.readdirSync(folder).filter((name) => name.startsWith('events.out.tfevents.')).length;
    this.path = join(folder, `events.out.tfevents.${stamp}.${count}`);
    this.write(now, 0, bytesField(EVENT.fileVersion, 'brain.Event:2'));
    if (firstStep > 0)
      this.write(
        now,
        firstStep,
        bytesField(EVENT.sessionLog, message(varintField(SESSION_LOG.status, START))),
      );
  }

  /** Adds numbers measured at a step, by their tags. */
  addScalars(step: number, scalars: Record<string, number>, now = Date.now()): void {
    const values = Object.entries(scalars).map(([tag, value]) =>
      bytesField(SUMMARY.value, message(bytesField(VALUE.tag, tag), floatField(VALUE.simpleValue, value))),
    );
    this.write(now, step, bytesField(EVENT.summary, message(...values)));
  }

  private write(now: number, step: number, what: Uint8Array): void {
    const event = message(doubleField(EVENT.wallTime, now / 1000), varintField(EVENT.step, step), what);
    onDisk(this.path, 'The events written so far are intact.', () =>
      fs.appendFileSync(this.path, framed(event)),
    );
  }
}

/** Frames data as a TFRecord. */
export function framed(data: Uint8Array): Uint8Array {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  const checksum = (bytes: Uint8Array) => {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(maskedCrc32c(bytes));
    return word;
  };
  return Buffer.concat([length, checksum(length), data, checksum(data)]);
}
