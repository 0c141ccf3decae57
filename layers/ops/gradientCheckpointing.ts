/** Whether backward recomputes blocks from their inputs; with `'offload'`, the inputs are kept in host memory. */
export type GradientCheckpointing = boolean | 'offload';
