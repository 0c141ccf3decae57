/** Whether backward runs blocks again from their inputs alone; with `'offload'`, the inputs wait in host memory. */
export type GradientCheckpointing = boolean | 'offload';
