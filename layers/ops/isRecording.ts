import {engineState} from './tfjsInternals.ts';

/** Whether the tape records what is computed now, for gradients. */
export function isRecording(): boolean {
  const {gradientDepth, kernelDepth} = engineState();
  return gradientDepth > 0 && kernelDepth === 0;
}
