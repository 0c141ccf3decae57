/**
 * Reads one of the eight 6-bit scales of `q4_k` and `q5_k` from the 12 bytes at `bytes[at]`. The first four are in the
 * lower bits of bytes 0 to 3; the last four have their lower bits in bytes 8 to 11 and their upper two in bytes 0 to 3.
 */
export function scaleAt(bytes: Uint8Array, at: number, group: number): number {
  if (group < 4) return bytes[at + group] & 63;
  return (bytes[at + 4 + group] & 15) | ((bytes[at + group - 4] >> 2) & 48);
}

/** Reads one of the eight 6-bit minima, which are beside the scales: bytes 4 to 7, and the upper bits of 8 to 11. */
export function minimumAt(bytes: Uint8Array, at: number, group: number): number {
  if (group < 4) return bytes[at + 4 + group] & 63;
  return (bytes[at + 4 + group] >> 4) | ((bytes[at + group] >> 2) & 48);
}

/** Writes one of the eight scales and its minimum, group by group from the first. */
export function putScaleAndMinimum(
  out: Uint8Array,
  at: number,
  group: number,
  scale: number,
  minimum: number,
): void {
  if (group < 4) {
    out[at + group] = scale;
    out[at + 4 + group] = minimum;
  } else {
    out[at + 4 + group] = (scale & 15) | ((minimum & 15) << 4);
    out[at + group - 4] |= (scale >> 4) << 6;
    out[at + group] |= (minimum >> 4) << 6;
  }
}
