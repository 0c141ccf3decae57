import {createRequire} from 'node:module';
import {join} from 'node:path';
import {compileAddon} from './compileAddon.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** Header with the layout of strings. Of the headers that the addon includes, it was the last to move. */
const STRING_HEADER = 'tensorflow/core/platform/ctstring_internal.h';

/**
 * Compiles the addon of `@tensorflow/tfjs-node` from its own sources, for a TensorFlow other than the one it was
 * released with.
 *
 * @param packageFolder folder of `@tensorflow/tfjs-node` or `-gpu`, next to its dependencies and `node-api-headers`
 * @throws TfjsLoraError as {@link compileAddon} does
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
