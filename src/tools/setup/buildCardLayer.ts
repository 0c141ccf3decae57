import {copyFile, rename} from 'node:fs/promises';
import {platform} from 'node:os';
import {basename, join} from 'node:path';
import {contextSource} from '../../training/backends/contextSource.ts';
import {compileAddon} from './compileAddon.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/**
 * Compiles the layer of Vulkan that gives each rank of a host a card of its own, on Linux, beside TensorFlow's set-up.
 *
 * @param folder folder of the set-up
 * @throws TfjsLoraError as {@link compileAddon} does
 */
export async function buildCardLayer(
  folder: string,
  library: TensorFlowLibrary,
  environment: Record<string, string | undefined>,
): Promise<void> {
  if (platform() !== 'linux') return;
  const {layer} = await contextSource();
  const [source, manifest] = ['.cc', '.json'].map(
    (end) => layer.find((path) => path.endsWith(end)) as string,
  );
  const output = join(folder, basename(source).replace('.cc', '.so'));
  const addon = {
    name: 'the layer that chooses a card',
    ...{sources: [source], headers: [], flags: ['-O2'], version: 8, output: `${output}.new`},
  };
  await compileAddon(addon, {...library, files: []}, folder, environment);
  await rename(`${output}.new`, output);
  await copyFile(manifest, join(folder, basename(manifest)));
}
