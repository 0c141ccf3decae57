/**
 * The values of all codes of OCP's 8-bit float E4M3, torch's `float8_e4m3fn`: a sign, four bits of exponent with bias
 * 7, three bits of mantissa; no infinities, and NaN where all other bits are 1.
 */
export const FLOAT8_VALUES: Readonly<Float32Array> = Float32Array.from({length: 256}, (_, code) => {
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  const magnitude = exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
  if ((code & 127) === 127) return Number.NaN;
  return code < 128 ? magnitude : -magnitude;
});

export const float8Value = (code: number): number => FLOAT8_VALUES[code];
