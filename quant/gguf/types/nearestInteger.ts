/** 1.5 · 2²³: float32 has no fractions beyond it, so adding it rounds, ties to even. */
const ROUNDER = 12582912;

/** Rounds a float32 number of magnitude below 2²² to the nearest integer, ties to even, as llama.cpp does. */
export const nearestInteger = (value: number): number => Math.fround(value + ROUNDER) - ROUNDER;
