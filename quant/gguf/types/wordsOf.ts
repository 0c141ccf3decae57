/** Views bytes as 16-bit words; copies them if they start at an odd address. */
export function wordsOf(bytes: Uint8Array): Uint16Array {
  const {buffer, byteOffset, length} = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(buffer, byteOffset, length / 2);
}
