import {guardAllocation} from '../../../../layers/kernels/wasm/guardAllocation.ts';
import type {WasmBackend} from '../../../../layers/kernels/wasm/wasmBackend.ts';

/** A heap in which 8 bytes are left, at the address 16. */
function nearlyFull(): WasmBackend {
  const wasm = {_malloc: (bytes: number) => (bytes >>> 0 <= 8 ? 16 : 0)};
  return {wasm} as unknown as WasmBackend;
}

test('a tensor without room is refused instead of written to address 0', () => {
  const backend = nearlyFull();
  guardAllocation(backend);
  guardAllocation(backend);
  expect(backend.wasm._malloc(8)).toBe(16);
  for (const bytes of [12, 2 ** 32 + 4]) {
    expect(() => backend.wasm._malloc(bytes)).toThrow(
      expect.objectContaining({
        code: 'INSUFFICIENT_MEMORY',
        message: expect.stringMatching(
          /^backend wasm: expected room for a tensor of .* in its memory of 4 GiB/,
        ),
      }),
    );
  }
});
