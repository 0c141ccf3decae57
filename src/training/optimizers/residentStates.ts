import * as tf from '@tensorflow/tfjs';
import type {StateSlot, StateStore, StateValues, VariableState} from './stateStore.ts';

/** States that stay on the device. */
export class ResidentStates implements StateStore {
  readonly isPaged = false;

  create(slots: StateSlot[], values?: StateValues[]): VariableState {
    return new ResidentState(slots, values);
  }

  visit(states: VariableState[], update: (index: number) => void): Iterable<() => Promise<unknown>> {
    for (const index of states.keys()) update(index);
    return [];
  }

  getConfig(): tf.serialization.ConfigDict {
    return {};
  }
}

class ResidentState implements VariableState {
  private readonly variables: tf.Variable[];

  constructor(
    readonly slots: StateSlot[],
    values?: StateValues[],
  ) {
    this.variables = slots.map(({shape, dtype}, i) =>
      tf.tidy(() => {
        const initial = values ? tf.tensor(values[i], shape, dtype) : tf.zeros(shape, dtype);
        return initial.variable(false);
      }),
    );
  }

  tensors(): tf.Tensor[] {
    return this.variables;
  }

  replace(next: tf.Tensor[]): void {
    for (const [i, variable] of this.variables.entries()) variable.assign(next[i] as tf.Tensor<tf.Rank>);
    tf.dispose(next);
  }

  async leave(): Promise<void> {}

  read(slot: number): Promise<StateValues> {
    return this.variables[slot].data() as Promise<StateValues>;
  }

  dispose(): void {
    tf.dispose(this.variables);
  }
}
