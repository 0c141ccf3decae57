/** A field of a protocol-buffer message, encoded. */
export type Field = Uint8Array;

const WIRE = {varint: 0, fixed64: 1, bytes: 2, fixed32: 5} as const;

/** Concatenates fields to a message. */
export const message = (...fields: Field[]): Uint8Array => Buffer.concat(fields);

/** Encodes a non-negative integer: `int64`, enum. */
export const varintField = (number: number, value: number): Field =>
  Buffer.concat([tag(number, WIRE.varint), varint(value)]);

export function doubleField(number: number, value: number): Field {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([tag(number, WIRE.fixed64), bytes]);
}

export function floatField(number: number, value: number): Field {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([tag(number, WIRE.fixed32), bytes]);
}

/** Encodes a string, or a message within the message. */
export function bytesField(number: number, value: string | Uint8Array): Field {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value;
  return Buffer.concat([tag(number, WIRE.bytes), varint(bytes.length), bytes]);
}

const tag = (number: number, wire: number): Uint8Array => varint(number * 8 + wire);

/** Encodes an integer with seven bits per byte, lowest first; the high bit says that more follow. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return Buffer.from([...bytes, rest]);
}
