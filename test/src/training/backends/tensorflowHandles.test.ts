import type {
  TensorEntry,
  TensorFlowBackend,
} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {guardHandles} from '../../../../src/training/backends/tensorflowHandles.ts';

/** Imitates how tfjs-node's backend and addon number handles: with consecutive signed 32-bit numbers. */
class NumberingBackend {
  readonly live = new Set<number>();
  readonly tensorMap = new Map<object, TensorEntry>();
  binding: Record<string, unknown>;

  constructor(private next: number) {
    const create = () => {
      const id = this.next++ | 0;
      this.live.add(id);
      return id;
    };
    const executeOp = (_name: string, _attributes: unknown[], _inputs: number[], count: number) =>
      Array.from({length: count}, () => ({id: create(), shape: [], dtype: 1}));
    const deleteTensor = (id: number) => this.live.delete(id);
    // The addon's properties are read-only.
    this.binding = Object.freeze({createTensor: create, executeOp, deleteTensor});
  }

  add(record: Partial<TensorEntry>): object {
    const dataId = {};
    this.tensorMap.set(dataId, {shape: [], dtype: 1, id: -1, values: null, refCount: 1, ...record});
    return dataId;
  }

  disposeData(dataId: object, force = false): boolean {
    const record = this.tensorMap.get(dataId);
    if (!record) return true;
    if (--record.refCount > 0 && !force) return false;
    if (record.id >= 0) (this.binding.deleteTensor as (id: number) => void)(record.id);
    this.tensorMap.delete(dataId);
    return true;
  }
}

function guarded(next: number) {
  const plain = new NumberingBackend(next);
  const backend = plain as unknown as TensorFlowBackend;
  guardHandles(backend);
  guardHandles(backend);
  return {plain, backend, run: () => backend.binding.executeOp('Add', [], [], 1)[0].id};
}

describe('handles of TensorFlow', () => {
  test('are freed beyond 2³¹, where their numbers are negative', () => {
    const {plain, backend, run} = guarded(2 ** 31 - 1);
    const ids = [run(), run(), run()];
    expect(ids).toEqual([2 ** 31 - 1, -(2 ** 31), -(2 ** 31) + 1]);
    const [first, shared] = [plain.add({id: ids[1]}), plain.add({id: ids[2], refCount: 2})];
    const waiting = plain.add({values: new Float32Array(1)}); // id −1: no handle yet
    backend.disposeData(first);
    expect(plain.live.has(ids[1])).toBe(false);
    backend.disposeData(shared);
    expect(plain.live.has(ids[2])).toBe(true);
    backend.disposeData(shared);
    backend.disposeData(waiting);
    expect([...plain.live]).toEqual([ids[0]]);
  });

  test('end a run before their numbers are reused', () => {
    const {backend, run} = guarded(2 ** 32 - 2 ** 20 - 2);
    run();
    run();
    expect(run).toThrow('expected fewer than 2³² tensors in the life of a process');
    expect(() => backend.binding.createTensor([], 1, Float32Array.of(1))).toThrow(
      expect.objectContaining({code: 'DEVICE_LOST'}),
    );
  });
});
