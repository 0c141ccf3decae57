import type * as tf from '@tensorflow/tfjs';

/** Tensors by name, as kernels take them. */
export type Tensors<Names extends string> = Record<Names, tf.TensorInfo>;

/**
 * The inputs of a gradient kernel: `dy`, what its op's declaration names, and `extra0`, `extra1` … of the forward
 * kernel.
 */
export type GradientInputs<Inputs, Read> = Tensors<'dy' | Extract<Read, 'y'>> &
  Pick<Inputs, Extract<Read, keyof Inputs>> & {[extra: `extra${number}`]: tf.TensorInfo};

/** What gradient kernels get besides the attributes of their op. */
export interface Spent {
  /** Whether `dy` is not needed again, so that the kernel may overwrite it. Default false. */
  isSpent?: boolean;
}

/** How an op with its own kernels is differentiated; see `dispatchWithGradient`. */
export interface GradientRule<Inputs, Read> {
  /** The inputs that get a gradient, in the order in which the gradient kernel returns them. */
  of: (keyof Inputs & string)[];
  /**
   * The inputs, and the value `y`, that the gradient kernel reads; the others are not kept in memory until backward.
   * Default all inputs.
   */
  read?: Read[];
  /** Whether the outputs are kept when backward runs a checkpointed block again. Default false. */
  isKept?: boolean;
}

/**
 * Declares an op that backends may have kernels for: the op dispatches by this declaration, which also types each
 * kernel. `Inputs` are tensors by name (or a list of them), `Attributes` plain values, and `Output` is the op's result.
 */
export class Op<Inputs extends object = object, Attributes extends object = object, Output = unknown> {
  /** Exists only for the compiler. */
  declare readonly types?: {inputs: Inputs; attributes: Attributes; output: Output};

  /** @param kernelName the name that kernels are registered under */
  constructor(readonly kernelName: string) {}

  /** The same op with a gradient, which a second kernel computes: `<kernelName>Grad`. */
  withGradient<Read extends (keyof Inputs & string) | 'y' = keyof Inputs & string>(
    rule: GradientRule<Inputs, Read>,
  ): DifferentiableOp<Inputs, Attributes, Output, Read> {
    return new DifferentiableOp(this.kernelName, rule);
  }
}

/** An op of any types. */
export type AnyOp = Pick<Op, 'kernelName'>;

/** An {@link Op} whose kernel returns the value, followed by other tensors that its gradient kernel reads. */
export class DifferentiableOp<
  Inputs extends object = object,
  Attributes extends object = object,
  Value = unknown,
  Read extends string = string,
> extends Op<Inputs, Attributes, Value | [Value, ...tf.Tensor[]]> {
  readonly gradient: Op<GradientInputs<Inputs, Read>, Attributes & Spent, tf.Tensor | tf.Tensor[]>;

  constructor(
    kernelName: string,
    readonly rule: GradientRule<Inputs, Read>,
  ) {
    super(kernelName);
    this.gradient = new Op(`${kernelName}Grad`);
  }
}

/**
 * Declares an {@link Op} by its types: `op<Tensors<'a' | 'b'>, {scaling: number}>('Name')`. By default it has no
 * attributes and one output.
 */
export function op<
  Inputs extends object,
  Attributes extends object = Record<never, never>,
  Output = tf.Tensor,
>(kernelName: string): Op<Inputs, Attributes, Output> {
  return new Op(kernelName);
}
