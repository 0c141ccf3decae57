import {createRequire} from 'node:module';
import {join} from 'node:path';
import {compileAddon} from './compileAddon.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** The header of a string's layout, last of those the addon includes to have moved. */
const STRING_HEADER = 'tensorflow/core/platform/ctstring_internal.h';

/**
 * Compiles the addon of `@tensorflow/tfjs-node` from its own sources, for another TensorFlow than it was released with.
 *
 * @param packageFolder of `@tensorflow/tfjs-node` or `-gpu`, with its dependencies and `node-api-headers` around it
 * @throws TfjsLoraError as {@link compileAddon}
 */
export async function buildAddon(
  packageFolder: string,
  library: TensorFlowLibrary,
  environment: Record<string, string | undefined>,
): Promise<void> {
  const output: string = createRequire(join(packageFolder, 'package.json'))('@mapbox/node-pre-gyp').find(
    join(packageFolder, 'package.json'),
  );
  const addon = {
    name: 'the addon of tfjs-node',
    sources: ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(packageFolder, 'binding', name)),
    headers: [STRING_HEADER],
    flags: ['-O2', '-w'],
    version: Number(/napi-v(\d+)/.exec(output)?.[1] ?? 8),
    output,
  };
  await compileAddon(addon, library, packageFolder, environment);
}
