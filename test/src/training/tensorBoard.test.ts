import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as fc from 'fast-check';
import {type FitArgs, type LogEntry, Trainer} from '../../../src/index.ts';
import {crc32c, maskedCrc32c} from '../../../src/training/callbacks/tensorBoard/crc32c.ts';
import {EventFile, framed} from '../../../src/training/callbacks/tensorBoard/eventFile.ts';
import {DiskRunFolder} from '../../../src/training/output/diskRunFolder.ts';
import {varintField} from '../../../src/training/protobuf/protobuf.ts';
import {BigramModel} from './bigramModel.ts';
import {temporaryFolder} from './temporaryFolder.ts';

const pathOf = temporaryFolder();

// An independent reader, bit by bit and field by field, which shares no code with the writer.

/** Computes CRC-32C by long division of the message's bits. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Unmasks a stored checksum as TensorFlow's crc32c.h does. */
function unmask(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

function records(file: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    expect(unmask(file.readUInt32LE(at + 8))).toBe(slowCrc(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(data).toHaveLength(length);
    expect(unmask(file.readUInt32LE(at + 12 + length))).toBe(slowCrc(data));
    found.push(data);
    at += length + 16;
  }
  return found;
}

/** Returns a message's fields by number. */
function fields(bytes: Buffer): Map<number, (number | Buffer)[]> {
  const found = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const varint = (): number => {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, wire] = [key >>> 3, key & 7];
    let value: number | Buffer;
    if (wire === 0) value = varint();
    else if (wire === 1) {
      value = bytes.readDoubleLE(at);
      at += 8;
    } else if (wire === 5) {
      value = bytes.readFloatLE(at);
      at += 4;
    } else {
      const length = varint();
      value = bytes.subarray(at, at + length);
      at += length;
    }
    found.set(number, [...(found.get(number) ?? []), value]);
  }
  return found;
}

interface ReadEvent {
  wallTime: number;
  step: number;
  version?: string;
  session?: number;
  scalars?: Record<string, number>;
}

function readEvents(path: string): ReadEvent[] {
  return records(readFileSync(path)).map((data) => {
    const event = fields(data);
    const [version, summary, session] = [3, 5, 7].map(
      (number) => event.get(number)?.[0] as Buffer | undefined,
    );
    const values = (summary && fields(summary).get(1)) ?? [];
    const scalars = values.map((value) => {
      const parts = fields(value as Buffer);
      return [String(parts.get(1)?.[0]), parts.get(2)?.[0]];
    });
    return {
      wallTime: event.get(1)?.[0] as number,
      step: event.get(2)?.[0] as number,
      ...(version && {version: version.toString()}),
      ...(session && {session: fields(session).get(1)?.[0] as number}),
      ...(summary && {scalars: Object.fromEntries(scalars)}),
    };
  });
}

test('checksums are CRC-32C', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283); // the catalogue's check value
  expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa); // RFC 3720
  expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
  expect(unmask(maskedCrc32c(Buffer.from('abc')))).toBe(crc32c(Buffer.from('abc')));
  fc.assert(fc.property(fc.uint8Array(), (bytes) => crc32c(bytes) === slowCrc(bytes)));
});

test('everything written can be read', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array()), (messages) => {
      const file = Buffer.concat(messages.map(framed));
      expect(records(file).map((data) => [...data])).toEqual(messages.map((data) => [...data]));
    }),
  );
  fc.assert(
    fc.property(fc.integer({min: 1, max: 500}), fc.maxSafeNat(), (number, value) => {
      expect(fields(varintField(number, value) as Buffer)).toEqual(new Map([[number, [value]]]));
    }),
  );
});

test('an event file has its version, then scalars', async () => {
  const folder = new DiskRunFolder(pathOf('alone'));
  const file = await EventFile.start(folder, 0, 1_700_000_000_500);
  await file.addScalars(300, {'train/loss': 1.5, 'über/µ': -0.25}, 1_700_000_001_000);
  expect(file.name).toMatch(/^events\.out\.tfevents\.1700000000\..+\.0$/);
  expect(readEvents(folder.pathOf(file.name))).toEqual([
    {wallTime: 1_700_000_000.5, step: 0, version: 'brain.Event:2'},
    {wallTime: 1_700_000_001, step: 300, scalars: {'train/loss': 1.5, 'über/µ': -0.25}},
  ]);
});

test('a run writes its log under transformers’ tags, and a resumed one voids the steps that it repeats', async () => {
  const outputDir = pathOf('run');
  const logged: LogEntry[] = [];
  const run = async (args: FitArgs, onLog?: (entry: LogEntry) => void) => {
    const model = new BigramModel();
    const trainer = new Trainer(model);
    try {
      await trainer.fit([{inputIds: [1, 2]}, {inputIds: [2, 3]}, {inputIds: [3, 4]}], {
        batchSize: 1,
        verbose: 0,
        outputDir,
        loggingSteps: 1,
        saveSteps: 2,
        reportTo: 'tensorboard',
        validationData: [{inputIds: [1, 2]}],
        callbacks: {onLog},
        ...args,
      });
    } finally {
      trainer.dispose();
      model.table.dispose();
    }
  };
  const broken = new Error('broken off');
  const breakOff = run({}, (entry) => {
    if (entry.step === 3) throw broken;
    logged.push(entry);
  });
  await expect(breakOff).rejects.toBe(broken);
  await run({resumeFromCheckpoint: true}, (entry) => void logged.push(entry));
  const files = readdirSync(join(outputDir, 'runs')).sort((a, b) => a.slice(-1).localeCompare(b.slice(-1)));
  expect(files).toHaveLength(2);
  const [first, second] = files.map((name) => readEvents(join(outputDir, 'runs', name)));
  expect(first.slice(1).map(({step}) => step)).toEqual([1, 2, 3]);
  expect(second[1]).toMatchObject({step: 3, session: 1}); // TensorBoard drops steps from 3 on that came before
  const written = [...first.slice(1, 3), ...second.slice(2)];
  expect(written.map(({step}) => step)).toEqual(logged.map(({step}) => step));
  for (const [i, {step, ...numbers}] of logged.entries()) {
    const tagged = Object.entries(numbers).map(([name, value]) => [
      name.startsWith('eval_') ? `eval/${name.slice(5)}` : `train/${name}`,
      Math.fround(value),
    ]);
    expect(written[i].scalars).toEqual(Object.fromEntries(tagged));
  }
  expect(written[0].scalars).toHaveProperty('train/loss');
  expect(written.some(({scalars}) => scalars && 'eval/loss' in scalars)).toBe(true);
});
