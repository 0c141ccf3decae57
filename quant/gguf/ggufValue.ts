/** Types of metadata values, in the order of their numbers in a GGUF file. */
export const GGUF_VALUE_TYPES = [
  'uint8',
  'int8',
  'uint16',
  'int16',
  'uint32',
  'int32',
  'float32',
  'bool',
  'string',
  'array',
  'uint64',
  'int64',
  'float64',
] as const;
export type GgufValueType = (typeof GGUF_VALUE_TYPES)[number];

/** A value of a file's metadata. Whole numbers of 64 bits that a JavaScript number cannot hold are bigints. */
export type GgufScalar = string | number | bigint | boolean;
export type GgufValue =
  | {readonly type: Exclude<GgufValueType, 'array'>; readonly value: GgufScalar}
  | {readonly type: 'array'; readonly items: GgufArray};

/** A list whose values have one type. */
export type GgufArray =
  | {readonly type: Exclude<GgufValueType, 'array'>; readonly values: readonly GgufScalar[]}
  | {readonly type: 'array'; readonly values: readonly GgufArray[]};

/** Fewest bytes that a value takes in the file, by its type: an empty string has only its length. */
export const GGUF_VALUE_BYTES: Readonly<Record<GgufValueType, number>> = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  string: 8,
  array: 12,
  uint64: 8,
  int64: 8,
  float64: 8,
};

/** Bytes between which tensors are aligned in a file without `general.alignment`. */
export const GGUF_ALIGNMENT = 32;
