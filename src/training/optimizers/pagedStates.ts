import * as tf from '@tensorflow/tfjs';
import {backendTraits} from '../../../layers/ops/backendTraits.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {
  bytesOfSlots,
  type StateSlot,
  type StateStore,
  type StateValues,
  sizeOfSlot,
  type VariableState,
} from './stateStore.ts';

export interface PagedArgs {
  /**
   * Maximum bytes of optimizer state on the device at a time: at least twice the largest variable's. Default 256 MiB,
   * or three times the largest variable's if that is more.
   */
  deviceBudgetBytes?: number;
}
export const PAGED_OPTIONS = {
  deviceBudgetBytes: true,
} satisfies OptionNames<PagedArgs>;

/** Default for the bytes of state on the device at a time. */
const DEFAULT_BUDGET = 256 * 2 ** 20;

/**
 * States in host memory that come to the device for their own update. Variables are updated in groups: during one
 * group's update, the next one's states are already on the device, if both fit. A variable's old and new state are
 * there together.
 */
export class PagedStates implements StateStore {
  readonly isPaged = true;

  /**
   * @param deviceBudgetBytes see {@link PagedArgs}
   * @throws TfjsLoraError `INVALID_ARGUMENT`
   */
  constructor(readonly deviceBudgetBytes?: number) {
    if (deviceBudgetBytes === undefined || deviceBudgetBytes > 0) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `paged optimizer deviceBudgetBytes: expected a number above 0, got ${deviceBudgetBytes}`,
    );
  }

  create(slots: StateSlot[], values?: StateValues[]): PagedState {
    return new PagedState(slots, values);
  }

  *visit(states: PagedState[], update: (index: number) => void): Iterable<() => Promise<unknown>> {
    const {groups, budget} = this.plan(states);
    for (const state of states) state.leave(); // copies that were lent out
    try {
      for (const [i, group] of groups.entries()) {
        group.load();
        const next = groups[i + 1];
        if (next && group.bytes + next.bytes + group.largest <= budget) next.load();
        for (const index of group.indices) update(index);
        const leaving = group.leave();
        yield () => leaving;
      }
    } finally {
      for (const state of states) state.leave();
    }
  }

  getConfig(): tf.serialization.ConfigDict {
    return this.deviceBudgetBytes === undefined ? {} : {deviceBudgetBytes: this.deviceBudgetBytes};
  }

  /**
   * Splits the states, in order, into groups small enough for two of them, and one state's successor, to fit the
   * budget.
   */
  private plan(states: PagedState[]): {groups: Group[]; budget: number} {
    const largest = states.reduce((most, {bytes}) => Math.max(most, bytes), 0);
    const budget = this.deviceBudgetBytes ?? Math.max(DEFAULT_BUDGET, 3 * largest);
    if (budget < 2 * largest) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `paged optimizer deviceBudgetBytes: expected at least ${2 * largest}, the largest variable's state before and ` +
          `after its update, got ${budget}`,
      );
    }
    const capacity = Math.max(largest, (budget - largest) / 2);
    const groups: Group[] = [];
    for (const [index, state] of states.entries()) {
      const last = groups.at(-1);
      if (last && last.bytes + state.bytes <= capacity) last.add(state, index);
      else groups.push(new Group(state, index));
    }
    return {groups, budget};
  }
}

/** States that are on the device together. */
class Group {
  readonly indices: number[] = [];
  bytes = 0;
  largest = 0;
  private readonly states: PagedState[] = [];

  constructor(state: PagedState, index: number) {
    this.add(state, index);
  }

  add(state: PagedState, index: number): void {
    this.states.push(state);
    this.indices.push(index);
    this.bytes += state.bytes;
    this.largest = Math.max(this.largest, state.bytes);
  }

  load(): void {
    for (const state of this.states) state.tensors();
  }

  leave(): Promise<unknown> {
    const leaving = Promise.all(this.states.map((state) => state.leave()));
    leaving.catch(() => {}); // a caller that cannot wait gets the error from flush()
    return leaving;
  }
}

class PagedState implements VariableState {
  readonly bytes: number;
  private host: StateValues[];
  /** The state on the device: newer than {@link host} if {@link isDirty}, otherwise a copy of it. */
  private device?: tf.Tensor[];
  private isDirty = false;
  /** A running download. It frees the tensors it reads, even if others have replaced them by then. */
  private download?: Promise<void>;

  constructor(
    readonly slots: StateSlot[],
    values?: StateValues[],
  ) {
    this.bytes = bytesOfSlots(slots);
    this.host = values ?? slots.map(zeros);
  }

  tensors(): tf.Tensor[] {
    this.device ??= this.slots.map(({shape, dtype}, i) => tf.keep(tf.tensor(this.host[i], shape, dtype)));
    return this.device;
  }

  replace(next: tf.Tensor[]): void {
    this.release();
    this.device = next.map((tensor) => tf.keep(tensor));
    this.isDirty = true;
  }

  leave(): Promise<void> {
    if (this.download) return this.download;
    const {device} = this;
    if (device && this.isDirty) {
      if (!backendTraits().readsAtOnce) return this.startDownload(device);
      this.host = device.map((tensor) => tensor.dataSync() as StateValues);
      this.isDirty = false;
    }
    this.release();
    return Promise.resolve();
  }

  async read(slot: number): Promise<StateValues> {
    await this.download;
    return this.device && this.isDirty ? ((await this.device[slot].data()) as StateValues) : this.host[slot];
  }

  dispose(): void {
    this.release();
    this.host = [];
  }

  private startDownload(device: tf.Tensor[]): Promise<void> {
    const download = this.fetch(device).finally(() => {
      if (this.download === download) this.download = undefined;
    });
    download.catch(() => {}); // the state stays on the device; whoever awaits the download gets the error
    this.download = download;
    return download;
  }

  private async fetch(device: tf.Tensor[]): Promise<void> {
    const isCurrent = () => this.device === device;
    try {
      const values = (await Promise.all(device.map((tensor) => tensor.data()))) as StateValues[];
      if (isCurrent()) {
        this.host = values;
        this.isDirty = false;
        this.device = undefined;
      }
    } finally {
      if (!isCurrent()) tf.dispose(device);
    }
  }

  /** Frees what is on the device. */
  private release(): void {
    if (!this.download) tf.dispose(this.device ?? []);
    this.device = undefined;
    this.download = undefined;
  }
}

function zeros(slot: StateSlot): StateValues {
  const size = sizeOfSlot(slot);
  return slot.dtype === 'int32' ? new Int32Array(size) : new Float32Array(size);
}
