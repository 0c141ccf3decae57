import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';

type NamedTensor = Awaited<ReturnType<tf.Optimizer['getWeights']>>[number];

/**
 * A `tf.Optimizer` that keeps its state by variable name, so that it survives reordering and saving. A subclass
 * names its slots and brings {@link update}.
 */
export abstract class NamedStateOptimizer extends tf.Optimizer {
  /** Names of the state tensors of each variable, each of the variable's shape, zeros at first. */
  protected abstract readonly slots: readonly string[];
  private readonly state = new Map<string, Map<string, tf.Variable>>();

  /** May be changed between steps, as schedules do. */
  abstract learningRate: number;

  /** Computes a variable's next value and next state, in the order of {@link slots}. */
  protected abstract update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    state: tf.Variable[],
    step: number,
  ): [value: tf.Tensor, ...state: tf.Tensor[]];

  /** Applies one step; gradients are keyed by the name of a registered `tf.Variable`. */
  override applyGradients(gradients: tf.NamedTensorMap | NamedTensor[]): void {
    const entries: [string, tf.Tensor][] = Array.isArray(gradients)
      ? gradients.map(({name, tensor}) => [name, tensor])
      : Object.entries(gradients);
    const registered = tf.engine().registeredVariables;
    const step = this.iterations + 1;
    for (const [name, gradient] of entries) {
      const variable = registered[name];
      if (!variable) {
        throw new TfjsLoraError('INVALID_ARGUMENT', `optimizer gradient "${name}": expected a live variable of that name, got none`);
      }
      if (gradient == null) continue;
      const state = this.stateOf(name, variable);
      const [value, ...next] = tf.tidy(() => this.update(name, variable, gradient, state, step));
      variable.assign(value as tf.Tensor<tf.Rank>);
      for (const [i, slot] of state.entries()) slot.assign(next[i]);
      tf.dispose([value, ...next]);
    }
    this.incrementIterations();
  }

  private stateOf(name: string, variable: tf.Variable): tf.Variable[] {
    let state = this.state.get(name);
    if (!state) {
      state = new Map(this.slots.map((slot) => [slot, tf.tidy(() => tf.zerosLike(variable).variable(false))]));
      this.state.set(name, state);
    }
    return this.slots.map((slot) => state.get(slot) as tf.Variable);
  }

  /** The step count, then every state tensor as `<variable>/<slot>`; the tensors stay the optimizer's. */
  override async getWeights(): Promise<NamedTensor[]> {
    const state = [...this.state].flatMap(([name, slots]) =>
      [...slots].map(([slot, tensor]) => ({name: `${name}/${slot}`, tensor: tensor as tf.Tensor})),
    );
    return [await this.saveIterations(), ...state];
  }

  override async setWeights(weights: NamedTensor[]): Promise<void> {
    const rest = await this.extractIterations(weights);
    this.disposeState();
    for (const {name, tensor} of rest) {
      const at = name.lastIndexOf('/');
      const [variable, slot] = [name.slice(0, at), name.slice(at + 1)];
      if (!this.slots.includes(slot)) {
        throw new TfjsLoraError('INVALID_ARGUMENT', `optimizer weight "${name}": expected …/${this.slots.join(' or …/')}`);
      }
      const slots = this.state.get(variable) ?? new Map<string, tf.Variable>();
      slots.set(slot, tf.variable(tensor, false));
      this.state.set(variable, slots);
    }
  }

  private disposeState(): void {
    for (const slots of this.state.values()) tf.dispose([...slots.values()]);
    this.state.clear();
  }

  override dispose(): void {
    this.disposeState();
    super.dispose();
  }
}
