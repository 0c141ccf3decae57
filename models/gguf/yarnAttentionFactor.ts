/** Returns what llama.cpp itself multiplies queries and keys by under YaRN, besides the file's `attn_factor`. */
export const yarnAttentionFactor = (factor: number): number => 0.1 * Math.log(factor) + 1;
