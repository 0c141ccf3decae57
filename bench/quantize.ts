/**
 * Measures the throughput of quantizing and dequantizing on one core, in MB of float32 per second, and of a plain copy
 * of the same bytes in the same run: `npx tsx bench/quantize.ts [megabytes, default 32]`. Prints a table and a line of
 * JSON.
 */
import {
  dequantizeBlockwise,
  float32ToBfloat16,
  quantizeBlockwise,
  quantizeFP4,
  quantizeInt8,
  quantizeNF4,
} from '../quant/index.ts';

const megabytes = Number(process.argv[2] ?? 32);
const cols = 2048;
const rows = Math.round((megabytes * 1e6) / 4 / cols);
const shape = [rows, cols] as const;
const values = Float32Array.from(
  {length: rows * cols},
  (_, i) => Math.sin(0.37 * i) * Math.cos(1.7 * i * i) * 0.05,
);
const halves = float32ToBfloat16(values);
const target = new Float32Array(values.length);
const nf4 = quantizeNF4(values, shape);
const nested = quantizeNF4(values, shape, {doubleQuant: true});
const int8 = quantizeInt8(values, shape);
const states = quantizeBlockwise(values);

const cases: Record<string, () => unknown> = {
  'copy (memcpy)': () => target.set(values),
  'nf4 quantize': () => quantizeNF4(values, shape),
  'nf4 + double quantize': () => quantizeNF4(values, shape, {doubleQuant: true}),
  'nf4 quantize from bfloat16': () => quantizeNF4(halves, shape, {dtype: 'bfloat16', doubleQuant: true}),
  'fp4 quantize': () => quantizeFP4(values, shape),
  'int8 quantize': () => quantizeInt8(values, shape),
  'dynamic 8-bit quantize': () => quantizeBlockwise(values),
  'nf4 dequantize': () => nf4.dequantize(target),
  'nf4 + double dequantize': () => nested.dequantize(target),
  'int8 dequantize': () => int8.dequantize(target),
  'dynamic 8-bit dequantize': () => dequantizeBlockwise(states, {}, target),
};

/** Returns the best of several runs, the speed of the code when nothing else uses the core. */
function secondsOf(work: () => unknown): number {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 6; run++) {
    const start = performance.now();
    work();
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  return best;
}

const results = Object.entries(cases).map(([name, work]) => ({
  name,
  rate: values.byteLength / 1e6 / secondsOf(work),
}));
const copyRate = results[0].rate;
console.log(`float32 [${shape}], ${(values.byteLength / 1e6).toFixed(0)} MB, best of 6\n`);
console.log(`${'case'.padEnd(28)}${'MB/s'.padStart(8)}${'of a copy'.padStart(12)}`);
for (const {name, rate} of results) {
  const share = `${((100 * rate) / copyRate).toFixed(1)}%`;
  console.log(name.padEnd(28) + rate.toFixed(0).padStart(8) + share.padStart(12));
}
console.log(
  `\n${JSON.stringify({megabytes: values.byteLength / 1e6, megabytesPerSecond: Object.fromEntries(results.map(({name, rate}) => [name, Math.round(rate)]))})}`,
);
