import * as tf from '@tensorflow/tfjs';
import {gradientFactor} from '../../../layers/ops/gradientFactor.ts';
import type {GradientClipping} from '../../../layers/ops/optimizerUpdates.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {ResidentStates} from './residentStates.ts';
import {
  bytesOfSlots,
  type StateSlot,
  type StateStore,
  type StateValues,
  type VariableState,
} from './stateStore.ts';

type NamedTensor = Awaited<ReturnType<tf.Optimizer['getWeights']>>[number];

/** One tensor of an optimizer's state, `<variable>/<slot>`, read on demand. */
export interface StateEntry extends StateSlot {
  read(): StateValues | Promise<StateValues>;
}

interface Update {
  name: string;
  variable: tf.Variable;
  gradient: tf.Tensor;
  state: VariableState;
}

/** Numbers of a step that are on the device and that the host has not read. */
export interface UnreadNumbers {
  /** Global norm of the gradients. */
  norm: tf.Scalar;
  /** All numbers that must be finite for the step to count, float32 `[n]`, the norm first. */
  numbers: tf.Tensor1D;
}

/**
 * A step that is queued before the host has read its numbers. Its results are beside variables and state until
 * {@link apply}, or the device has written them over these already, provided that all numbers are finite.
 */
export interface PreparedStep {
  /** Makes the step count, once the host has read that all numbers are finite. */
  apply(): void;
  /** Frees what was computed; then the optimizer may step again. Without {@link apply}, the step was skipped. */
  end(): void;
  /**
   * Ends the step after an error, when the host does not know its numbers. If the device has written the results
   * already, the step counts, so that the number of steps fits the weights. Never rejects: a device that cannot tell
   * is lost, with weights and state.
   */
  abandon(): Promise<void>;
}

/** Arguments of {@link NamedStateOptimizer.update} for one variable. */
export interface VariableUpdate {
  name: string;
  value: tf.Variable;
  gradient: tf.Tensor;
  state: tf.Tensor[];
}

/**
 * A `tf.Optimizer` that keeps its state by variable name, so the state survives reordering, saving, and a variable that
 * is disposed and recreated under its name. A subclass names its {@link slots} and implements {@link update}; one whose
 * state is not float32 of the variable's shape overrides {@link slotsOf} too. The store decides where state is between
 * steps.
 */
export abstract class NamedStateOptimizer extends tf.Optimizer {
  /** Learning rate; may be changed between steps, as schedules do. */
  abstract learningRate: number;
  /** Names of all state tensors that a variable may have, in the order of {@link slotsOf}. */
  protected abstract readonly slots: readonly string[];
  private readonly state = new Map<string, VariableState>();
  private isStepping = false;
  /** Clipping of the step that is being prepared, which {@link updateMany} applies; see {@link preparesSteps}. */
  protected clipping?: GradientClipping;
  /** Factor on the gradients of the step that is being prepared; see {@link preparesSteps}. */
  protected factor?: tf.Scalar;

  /**
   * Restores the language's own check: `tf.Optimizer` accepts every optimizer as an instance of each of its subclasses.
   */
  static override [Symbol.hasInstance](instance: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(this, instance);
  }

  /** @param states store for the state between steps. Default: on the device */
  constructor(protected readonly states: StateStore = new ResidentStates()) {
    super();
  }

  /**
   * Describes the state of a variable of this shape, which starts as zeros. By default it is float32 of the same shape.
   *
   * @param _name of the variable; absent where memory is estimated
   */
  protected slotsOf(shape: number[], _name?: string): StateSlot[] {
    return this.slots.map((name) => ({name, shape, dtype: 'float32'}));
  }

  /** Computes a variable's next value and next state, in the order of {@link slotsOf}. */
  protected abstract update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    state: tf.Tensor[],
    step: number,
  ): [value: tf.Tensor, ...state: tf.Tensor[]];

  /**
   * Number of variables that {@link updateMany} gets when states stay on the device. Default 1: {@link update} only.
   */
  protected get updatesAtOnce(): number {
    return 1;
  }

  /** Computes {@link update} for several variables, from two to {@link updatesAtOnce}. */
  protected updateMany(updates: VariableUpdate[], step: number): [value: tf.Tensor, ...state: tf.Tensor[]][] {
    return updates.map(({name, value, gradient, state}) => this.update(name, value, gradient, state, step));
  }

  /**
   * How {@link prepareStep} computes steps, if it does. With `aside`, {@link updateMany} overwrites nothing and applies
   * {@link clipping}. With `inPlace`, it may overwrite values and state, but passes {@link factor} to all its kernels.
   */
  get preparesSteps(): 'aside' | 'inPlace' | undefined {
    return undefined;
  }

  /** Whether state is in host memory and on the device only during its own update. */
  get isPaged(): boolean {
    return this.states.isPaged;
  }

  /** Returns the bytes of state for a variable of this shape. */
  stateBytes(shape: number[]): number {
    return bytesOfSlots(this.slotsOf(shape));
  }

  /**
   * Applies one step. On a backend that only reads asynchronously, a paged optimizer's new states stay on the device
   * until {@link flush}; {@link applyGradientsAsync} keeps to its budget there too.
   *
   * @param gradients gradients by the name of a live `tf.Variable`; a variable with a null gradient stays unchanged
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name without a variable or a budget that is too small,
   *   `SHAPE_MISMATCH` for a gradient or a state of another shape, `UNSUPPORTED` within another step; no variable has
   *   changed then
   */
  override applyGradients(gradients: tf.NamedTensorMap | NamedTensor[]): void {
    const run = this.run(gradients);
    while (!run.next().done);
  }

  /**
   * Applies one step like {@link applyGradients}, but waits whenever a state has to leave the device before the next
   * ones come. Gradients and settings must not change until it resolves.
   */
  async applyGradientsAsync(gradients: tf.NamedTensorMap | NamedTensor[]): Promise<void> {
    for (const stateLeaves of this.run(gradients)) await stateLeaves();
  }

  /**
   * Queues a step before it is known whether its gradients are finite, so that a card need not wait for the answer.
   * No other step may begin before this one ends.
   *
   * @param gradients by the variables' names, not clipped
   * @param maxNorm maximum global norm, to which the device clips. Default: no clipping
   * @returns undefined when the optimizer is paged or its kernels on this backend cannot wait for the numbers. The
   *   caller then clips the gradients and calls {@link applyGradientsAsync}.
   * @throws TfjsLoraError as {@link applyGradients}
   */
  prepareStep(
    gradients: tf.NamedTensorMap,
    unread: UnreadNumbers,
    maxNorm?: number,
  ): PreparedStep | undefined {
    if (!this.preparesSteps) return undefined;
    this.assertIdle();
    const updates = this.plan(gradients);
    const step = this.iterations + 1;
    let results: tf.Tensor[][] = [];
    const factor = this.begin(unread, maxNorm);
    try {
      for (const group of this.groupsOf(updates)) {
        const given = group.map(inputsOf);
        const made = this.tidied(() => this.updateMany(given, step));
        results.push(...made.map((result, i) => withoutWritten(given[i], result)));
      }
    } catch (error) {
      tf.dispose([results, factor] as tf.TensorContainer);
      throw error;
    } finally {
      this.clipping = this.factor = undefined;
    }
    this.isStepping = true;
    const apply = () => {
      this.takeOver(updates, results);
      results = [];
      this.incrementIterations();
    };
    const end = () => {
      tf.dispose([results, factor] as tf.TensorContainer);
      this.isStepping = false;
    };
    const abandon = async () => {
      const value = await factor?.data().catch(() => undefined);
      if (value && value[0] >= 0) apply();
      end();
    };
    return {apply, end, abandon};
  }

  /** Sets what {@link updateMany} reads of the step's numbers on the device; the caller resets it. */
  private begin({norm, numbers}: UnreadNumbers, maxNorm?: number): tf.Scalar | undefined {
    if (this.preparesSteps === 'inPlace') this.factor = gradientFactor(numbers, maxNorm);
    else if (maxNorm !== undefined) this.clipping = {norm, maxNorm};
    return this.factor;
  }

  /**
   * Computes a first step and discards it, for `compileShaders`. Call it only when nothing is really computed, since an
   * update may overwrite its inputs.
   *
   * @param isPrepared whether {@link prepareStep} will compute the steps. Default false
   * @param maxNorm maximum global norm that it will get. Default: no clipping
   */
  rehearse(gradients: tf.NamedTensorMap, isPrepared = false, maxNorm?: number): void {
    tf.tidy(() => {
      const updates = Object.entries(gradients).map(([name, gradient]) => {
        const value = variableNamed(name);
        const state = this.slotsOf(value.shape, name).map(({shape, dtype}) => tf.zeros(shape, dtype));
        return {name, value, gradient, state};
      });
      if (isPrepared) this.begin({norm: tf.scalar(0), numbers: tf.zeros([2])}, maxNorm);
      try {
        for (const group of this.groupsOf(updates)) this.compute(group, 1);
      } finally {
        this.clipping = this.factor = undefined;
      }
    });
  }

  /** Resolves once no state of a paged optimizer is on the device. */
  async flush(): Promise<void> {
    await Promise.all([...this.state.values()].map((state) => state.leave()));
  }

  /** Runs a step, and yields where a state has to leave the device first; see {@link StateStore.visit}. */
  private *run(gradients: tf.NamedTensorMap | NamedTensor[]): Generator<() => Promise<unknown>, void> {
    this.assertIdle();
    const updates = this.plan(gradients);
    const step = this.iterations + 1;
    const states = updates.map(({state}) => state);
    this.isStepping = true;
    try {
      if (this.groupSize > 1) for (const group of this.groupsOf(updates)) this.runUpdates(group, step);
      else yield* this.states.visit(states, (index) => this.runUpdates([updates[index]], step));
      this.incrementIterations();
    } finally {
      this.isStepping = false;
    }
  }

  /** Number of variables that are updated in one call. */
  private get groupSize(): number {
    return this.isPaged ? 1 : this.updatesAtOnce;
  }

  /** Splits updates into groups of {@link groupSize}, in order. */
  private *groupsOf<T>(updates: T[]): Generator<T[]> {
    const size = this.groupSize;
    for (let first = 0; first < updates.length; first += size) yield updates.slice(first, first + size);
  }

  /** Checks everything that can be checked before a variable changes. */
  private plan(gradients: tf.NamedTensorMap | NamedTensor[]): Update[] {
    const given = Array.isArray(gradients)
      ? gradients
      : Object.entries(gradients).map(([name, tensor]) => ({name, tensor}));
    const checked = given
      .filter(({tensor}) => tensor != null)
      .map(({name, tensor: gradient}) => {
        const variable = variableNamed(name);
        assertShape(`gradient "${name}"`, gradient, variable.shape);
        const known = this.state.get(name);
        if (known) assertSlots(name, known.slots, this.slotsOf(variable.shape, name));
        return {name, variable, gradient, known};
      });
    return checked.map(({known, ...update}) => ({...update, state: known ?? this.beginState(update)}));
  }

  private beginState({name, variable}: {name: string; variable: tf.Variable}): VariableState {
    const state = this.states.create(this.slotsOf(variable.shape, name));
    this.state.set(name, state);
    return state;
  }

  private runUpdates(updates: Update[], step: number): void {
    const given = updates.map(inputsOf);
    this.takeOver(
      updates,
      this.tidied(() => this.compute(given, step)),
    );
  }

  private tidied(compute: () => tf.Tensor[][]): tf.Tensor[][] {
    return tf.tidy(compute as () => never) as tf.Tensor[][]; // for any nesting
  }

  private takeOver(updates: Update[], results: tf.Tensor[][]): void {
    for (const [i, [value, ...next]] of results.entries()) {
      if (!value) continue; // see withoutWritten
      updates[i].variable.assign(value as tf.Tensor<tf.Rank>);
      value.dispose();
      updates[i].state.replace(next);
    }
  }

  private compute(updates: VariableUpdate[], step: number): tf.Tensor[][] {
    if (updates.length > 1 || this.factor) return this.updateMany(updates, step);
    const [{name, value, gradient, state}] = updates;
    return [this.update(name, value, gradient, state, step)];
  }

  /**
   * Returns the number of steps (`iter`), then every state tensor as `<variable>/<slot>`. As with TensorFlow.js's own
   * optimizers, the state tensors belong to the optimizer and change with the next step; the caller disposes `iter`. A
   * paged optimizer brings all its state to the device for this, until the next step or {@link flush}; `saveOptimizer`
   * does not.
   */
  override async getWeights(): Promise<NamedTensor[]> {
    const state = [...this.state].flatMap(([name, ofVariable]) => {
      const tensors = ofVariable.tensors();
      return ofVariable.slots.map((slot, i) => ({name: `${name}/${slot.name}`, tensor: tensors[i]}));
    });
    return [await this.saveIterations(), ...state];
  }

  /**
   * Replaces the state by what {@link getWeights} returned, in any order after the number of steps. The tensors remain
   * the caller's.
   *
   * @throws TfjsLoraError when a slot is unknown, missing, or does not fit its variable; the state is unchanged then
   */
  override async setWeights(weights: NamedTensor[]): Promise<void> {
    const [first, ...rest] = weights;
    if (first?.tensor.size !== 1) {
      const got = first ? `"${first.name}" [${first.tensor.shape}]` : 'none';
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `optimizer weights: expected the number of steps first, got ${got}. Pass what getWeights() returned.`,
      );
    }
    const [iterations] = await first.tensor.data();
    const entries = rest.map(({name, tensor}) => ({
      name,
      shape: tensor.shape,
      dtype: tensor.dtype as StateSlot['dtype'],
      read: () => tensor.data() as Promise<StateValues>,
    }));
    await this.setState(iterations, entries);
  }

  /** Lists all state tensors, which are read from where they are. */
  stateEntries(): StateEntry[] {
    return [...this.state].flatMap(([name, state]) =>
      state.slots.map((slot, i) => ({...slot, name: `${name}/${slot.name}`, read: () => state.read(i)})),
    );
  }

  /**
   * Replaces the number of steps and the state by what {@link stateEntries} returned, in any order.
   *
   * @throws TfjsLoraError as {@link setWeights}, `UNSUPPORTED` within a step
   */
  async setState(iterations: number, entries: StateEntry[]): Promise<void> {
    const given = this.byVariable(entries);
    const next = new Map<string, VariableState>();
    try {
      for (const [name, slots] of given) {
        const values: StateValues[] = [];
        for (const slot of slots) values.push(await slot.read());
        const shapes = slots.map(({name, shape, dtype}) => ({name, shape: [...shape], dtype}));
        next.set(name, this.states.create(shapes, values));
      }
      this.assertIdle();
    } catch (error) {
      for (const state of next.values()) state.dispose();
      throw error;
    }
    this.disposeState(); // only now, as the given tensors may be among those it frees
    for (const [name, state] of next) this.state.set(name, state);
    this.iterations_ = iterations;
  }

  /** Groups entries by variable, in order, and names them by their slots. */
  private byVariable(entries: StateEntry[]): Map<string, StateEntry[]> {
    const groups = new Map<string, StateEntry[]>();
    for (const entry of entries) {
      const at = entry.name.lastIndexOf('/');
      const [variable, slot] = [entry.name.slice(0, Math.max(0, at)), entry.name.slice(at + 1)];
      if (variable === '' || !this.slots.includes(slot)) {
        throw new TfjsLoraError(
          'INVALID_ARGUMENT',
          `optimizer weight "${entry.name}": expected <variable>/${this.slots.join(' or <variable>/')}`,
        );
      }
      groups.set(variable, [...(groups.get(variable) ?? []), {...entry, name: slot}]);
    }
    const place = ({name}: StateEntry) => this.slots.indexOf(name);
    for (const [variable, group] of groups) {
      group.sort((a, b) => place(a) - place(b));
      const live = tf.engine().registeredVariables[variable];
      if (live) assertSlots(variable, group, this.slotsOf(live.shape, variable));
    }
    return groups;
  }

  private disposeState(): void {
    for (const state of this.state.values()) state.dispose();
    this.state.clear();
  }

  private assertIdle(): void {
    if (!this.isStepping) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'optimizer: expected one step at a time, but another one is running. Await applyGradientsAsync().',
    );
  }

  /** Frees the state; the optimizer starts over if it is used again. */
  override dispose(): void {
    this.disposeState();
    this.iterations_ = 0;
  }
}

function inputsOf({name, variable, gradient, state}: Update): VariableUpdate {
  return {name, value: variable, gradient, state: state.tensors()};
}

/** Returns the results of a variable's update, none if a kernel wrote all of them over the value and state given. */
function withoutWritten({value, state}: VariableUpdate, results: tf.Tensor[]): tf.Tensor[] {
  const given = [value, ...state];
  if (!results.every(({dataId}, i) => dataId === given[i].dataId)) return results;
  tf.dispose(results);
  return [];
}

function variableNamed(name: string): tf.Variable {
  const variable = tf.engine().registeredVariables[name];
  if (variable) return variable;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `optimizer gradient "${name}": expected a variable of that name that is not disposed, got none`,
  );
}

/**
 * Checks the slots given for a variable.
 *
 * @param expected the slots that the variable needs
 */
function assertSlots(variable: string, given: readonly StateSlot[], expected: StateSlot[]): void {
  for (const slot of expected) {
    const found = given.find(({name}) => name === slot.name);
    const where = `optimizer weight "${variable}/${slot.name}"`;
    if (!found) {
      const got = given.map(({name}) => name).join(', ');
      throw new TfjsLoraError(
        'MISSING_TENSOR',
        `${where}: expected all of the variable's state, got only ${got}`,
      );
    }
    assertShape(`state "${variable}/${slot.name}"`, found, slot.shape);
    if (found.dtype === slot.dtype) continue;
    throw new TfjsLoraError('SHAPE_MISMATCH', `${where}: expected ${slot.dtype}, got ${found.dtype}`);
  }
  const known = new Set(expected.map(({name}) => name));
  const surplus = given.find(({name}, i) => !known.has(name) || name === given[i - 1]?.name);
  if (!surplus) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `optimizer weight "${variable}/${surplus.name}": expected each of ${[...known].join(', ')} once, got another one`,
  );
}

function assertShape(what: string, {shape}: {shape: number[]}, expected: number[]): void {
  if (tf.util.arraysEqual(shape, expected)) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `optimizer ${what}: expected [${expected}] to fit its variable, got [${shape}]`,
  );
}
