/** For `excludeFromWeightDecay`: the weights that transformers' Trainer does not decay, biases and norms. */
export const UNDECAYED_BY_TRANSFORMERS: RegExp[] = [
  /bias/i,
  /layernorm/i,
  /rmsnorm/i,
  /(?:^|\.)norm(?:$|\.)/i,
  /_norm(?:$|\.)/i,
];
