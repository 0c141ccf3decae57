import {engineState} from './tfjsInternals.ts';

/** Whether what is computed now may be differentiated. */
export function isRecording(): boolean {
  const {gradientDepth, kernelDepth} = engineState();
  return gradientDepth > 0 && kernelDepth === 0;
}
