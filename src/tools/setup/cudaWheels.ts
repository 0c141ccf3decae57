/** A version of a package with NVIDIA's libraries. */
export interface CudaWheel {
  project: string;
  version: string;
}

/**
 * Returns the NVIDIA packages that a TensorFlow wheel requires for its extra `and-cuda`.
 *
 * @param metadata the wheel's `METADATA`: `Requires-Dist: nvidia-cudnn-cu12<10.0,>=9.3.0.75; extra == "and-cuda"`
 */
export function cudaWheels(metadata: string): CudaWheel[] {
  const lines = metadata.matchAll(/^Requires-Dist:\s*(nvidia-[\w-]+)\s*\(?([^;)]*)\)?\s*;.*and-cuda/gm);
  return [...lines].map(([, project, bounds]) => ({
    project,
    version: /[=>~]=\s*([\d.]+)/.exec(bounds)?.[1] ?? '',
  }));
}
