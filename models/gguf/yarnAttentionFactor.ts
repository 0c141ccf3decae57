/**
 * Returns the factor by which llama.cpp multiplies queries and keys under YaRN, in addition to the file's
 * `attn_factor`.
 */
export const yarnAttentionFactor = (factor: number): number => 0.1 * Math.log(factor) + 1;
