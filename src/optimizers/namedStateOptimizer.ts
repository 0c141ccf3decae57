import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';

type NamedTensor = Awaited<ReturnType<tf.Optimizer['getWeights']>>[number];

/**
 * A `tf.Optimizer` that keeps its state by variable name: it survives reordering, saving, and a variable that is
 * disposed and made again under its name. A subclass names its slots and brings {@link update}; one whose state is not
 * a float32 tensor of the variable's shape overrides {@link stateShape} and {@link initialState} too.
 */
export abstract class NamedStateOptimizer extends tf.Optimizer {
  /** Names of the state tensors of each variable. */
  protected abstract readonly slots: readonly string[];
  /** By variable name, in the order of {@link slots}. */
  private readonly state = new Map<string, tf.Variable[]>();

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

  /** Shape of a slot: the variable's. */
  protected stateShape(_slot: string, variable: tf.Variable): number[] {
    return variable.shape;
  }

  /** A slot before the first step: zeros. */
  protected initialState(slot: string, variable: tf.Variable): tf.Tensor {
    return tf.zeros(this.stateShape(slot, variable));
  }

  /**
   * Applies one step.
   *
   * @param gradients by the name of a live `tf.Variable`; a variable whose gradient is null rests
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name of no variable, `SHAPE_MISMATCH` for a gradient or a state of
   *   another shape; no variable has changed then
   */
  override applyGradients(gradients: tf.NamedTensorMap | NamedTensor[]): void {
    const given = Array.isArray(gradients)
      ? gradients
      : Object.entries(gradients).map(([name, tensor]) => ({name, tensor}));
    const plan = given
      .filter(({tensor}) => tensor != null)
      .map(({name, tensor: gradient}) => {
        const variable = variableNamed(name);
        assertShape(`gradient "${name}"`, gradient, variable.shape);
        return {name, gradient, variable, state: this.stateOf(name, variable)};
      });
    const step = this.iterations + 1;
    for (const {name, gradient, variable, state} of plan) {
      const [value, ...next] = tf.tidy(() => this.update(name, variable, gradient, state, step));
      variable.assign(value as tf.Tensor<tf.Rank>);
      for (const [i, slot] of state.entries()) slot.assign(next[i]);
      tf.dispose([value, ...next]);
    }
    this.incrementIterations();
  }

  private stateOf(name: string, variable: tf.Variable): tf.Variable[] {
    const known = this.state.get(name);
    if (known) {
      this.assertState(name, known, variable);
      return known;
    }
    const fresh = this.slots.map((slot) => tf.tidy(() => this.initialState(slot, variable).variable(false)));
    this.state.set(name, fresh);
    return fresh;
  }

  private assertState(name: string, state: tf.Tensor[], variable: tf.Variable): void {
    for (const [i, slot] of this.slots.entries()) {
      assertShape(`state "${name}/${slot}"`, state[i], this.stateShape(slot, variable));
    }
  }

  /**
   * The count of steps (`iter`), then every state tensor as `<variable>/<slot>`. As with TensorFlow.js's own
   * optimizers, the state tensors stay the optimizer's and change with the next step; `iter` is the caller's to dispose.
   */
  override async getWeights(): Promise<NamedTensor[]> {
    const state = [...this.state].flatMap(([name, slots]) =>
      slots.map((tensor, i) => ({name: `${name}/${this.slots[i]}`, tensor: tensor as tf.Tensor})),
    );
    return [await this.saveIterations(), ...state];
  }

  /**
   * Takes over what {@link getWeights} gave, in any order after the count of steps, in place of the state so far; the
   * given tensors stay the caller's.
   *
   * @throws TfjsLoraError when a slot is unknown, missing, or does not fit its variable; the state is as before then
   */
  override async setWeights(weights: NamedTensor[]): Promise<void> {
    const [first, ...rest] = weights;
    if (first?.tensor.size !== 1) {
      const got = first ? `"${first.name}" [${first.tensor.shape}]` : 'none';
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `optimizer weights: expected the count of steps first, got ${got}. Pass what getWeights() gave.`,
      );
    }
    const given = this.byVariable(rest);
    await this.extractIterations(weights);
    const next = [...given].map(
      ([name, slots]) => [name, slots.map((tensor) => tf.variable(tensor, false))] as const,
    );
    this.disposeState(); // only now: the given tensors may be the ones it frees
    for (const [name, slots] of next) this.state.set(name, slots);
  }

  private byVariable(weights: NamedTensor[]): Map<string, tf.Tensor[]> {
    const groups = new Map<string, tf.Tensor[]>();
    for (const {name, tensor} of weights) {
      const at = name.lastIndexOf('/');
      const [variable, slot] = [name.slice(0, at), this.slots.indexOf(name.slice(at + 1))];
      if (at < 1 || slot < 0) {
        throw new TfjsLoraError(
          'INVALID_ARGUMENT',
          `optimizer weight "${name}": expected <variable>/${this.slots.join(' or <variable>/')}`,
        );
      }
      const group = groups.get(variable) ?? [];
      group[slot] = tensor;
      groups.set(variable, group);
    }
    for (const [variable, group] of groups) {
      const missing = this.slots.find((_, i) => !group[i]);
      if (missing !== undefined) {
        throw new TfjsLoraError(
          'MISSING_TENSOR',
          `optimizer weight "${variable}/${missing}": expected it beside the variable's other state, got none`,
        );
      }
      const live = tf.engine().registeredVariables[variable];
      if (live) this.assertState(variable, group, live);
    }
    return groups;
  }

  private disposeState(): void {
    for (const slots of this.state.values()) tf.dispose(slots);
    this.state.clear();
  }

  /** Frees the state; the optimizer starts anew if it is used again. */
  override dispose(): void {
    this.disposeState();
    this.iterations_ = 0;
  }
}

function variableNamed(name: string): tf.Variable {
  const variable = tf.engine().registeredVariables[name];
  if (variable) return variable;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `optimizer gradient "${name}": expected a live variable of that name, got none`,
  );
}

function assertShape(what: string, {shape}: tf.Tensor, expected: number[]): void {
  if (tf.util.arraysEqual(shape, expected)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `optimizer ${what}: expected [${expected}] to fit its variable, got [${shape}]`,
  );
}
