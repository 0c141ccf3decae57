import {rename} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {join} from 'node:path';
import {contextSource} from '../../training/backends/contextSource.ts';
import {compileAddon} from './compileAddon.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** Header with the layout of strings. Of the headers that the addon includes, it was the last to move. */
const STRING_HEADER = 'tensorflow/core/platform/ctstring_internal.h';

/** Functions that the addon calls, and the names of those in the source of its context that take their place. */
const REPLACED = [
  ['TFE_NewContext', 'new_context'],
  ['napi_define_properties', 'define_properties'],
];

/**
 * Compiles the addon of `@tensorflow/tfjs-node` from its own sources, for a TensorFlow other than the one it was
 * released with, and lets its context join a cluster. An earlier addon stays until this one is complete.
 *
 * @param packageFolder folder of `@tensorflow/tfjs-node` or `-gpu`, next to its dependencies and `node-api-headers`
 * @returns the hash of the source that joins a cluster
 * @throws TfjsLoraError as {@link compileAddon} does
 */
export async function buildAddon(
  packageFolder: string,
  library: TensorFlowLibrary,
  environment: Record<string, string | undefined>,
): Promise<string> {
  const output: string = createRequire(join(packageFolder, 'package.json'))('@mapbox/node-pre-gyp').find(
    join(packageFolder, 'package.json'),
  );
  const context = await contextSource();
  const own = ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(packageFolder, 'binding', name));
  const addon = {
    name: 'the addon of tfjs-node',
    sources: [...own, ...context.paths],
    headers: [STRING_HEADER],
    flags: ['-O2', '-w', ...REPLACED.map(([name, own]) => `-D${name}=tfjs_lora_${own}`)],
    version: Number(/napi-v(\d+)/.exec(output)?.[1] ?? 8),
    output: `${output}.new`,
  };
  await compileAddon(addon, library, packageFolder, environment);
  await rename(`${output}.new`, output);
  return context.hash;
}
