/** A package of NVIDIA's libraries at one version. */
export interface CudaWheel {
  project: string;
  version: string;
}

/**
 * The NVIDIA packages that a TensorFlow wheel wants with its extra `and-cuda`.
 *
 * @param metadata its `METADATA`: `Requires-Dist: nvidia-cudnn-cu12<10.0,>=9.3.0.75; extra == "and-cuda"`
 */
export function cudaWheels(metadata: string): CudaWheel[] {
  const lines = metadata.matchAll(/^Requires-Dist:\s*(nvidia-[\w-]+)\s*\(?([^;)]*)\)?\s*;.*and-cuda/gm);
  return [...lines].map(([, project, bounds]) => ({
    project,
    version: /[=>~]=\s*([\d.]+)/.exec(bounds)?.[1] ?? '',
  }));
}
