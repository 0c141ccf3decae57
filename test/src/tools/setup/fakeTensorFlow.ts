import {createHash} from 'node:crypto';
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {SETUP_FILE, type TensorFlowSetup} from '../../../../src/training/backends/tensorflowFolder.ts';

/** Path of some addon that Node can load on this machine, which a fake compiler "compiles". */
export function someAddon(): string {
  const scope = join(__dirname, '../../../../node_modules/@resvg');
  const files = readdirSync(scope).flatMap((name) =>
    readdirSync(join(scope, name)).map((file) => join(scope, name, file)),
  );
  return files.find((file) => file.endsWith('.node')) as string;
}

/** A fake tfjs-node: every product is 48, and the result of every op is 128. */
const PACKAGE = `
const binding = {
  TF_Version: '2.21.0',
  createTensor: () => 0,
  executeOp: () => [{id: 1}],
  tensorDataSync: () => [128],
};
module.exports = {
  tidy: (run) => run(),
  ones: () => {},
  fill: () => {},
  matMul: () => ({dataSync: () => [48]}),
  backend: () => ({binding, isUsingGpuDevice: false}),
};`;

/** Folders of the addon's own sources, whose hash says that the addon is up to date. */
const CONTEXT = ['context', 'layer'].map((name) =>
  join(__dirname, '../../../../layers/kernels/tensorflow/native', name),
);

/** Writes the files of `setup tensorflow --from wheel` into `folder`, with an empty library. */
export function layOutSetup(folder: string, setup: Partial<TensorFlowSetup> = {}): void {
  const hash = createHash('sha256');
  for (const folder of CONTEXT)
    for (const name of readdirSync(folder).sort()) hash.update(readFileSync(join(folder, name)));
  const context = hash.digest('hex').slice(0, 16);
  const made = {package: '@tensorflow/tfjs-node', version: '2.21.0', source: 'wheel', context, ...setup};
  const ending = process.platform === 'darwin' ? '2.dylib' : 'so.2';
  const libraries = ['cc', 'framework'].map((name) => `libtensorflow_${name}.${ending}`);
  write(folder, {
    'package.json': '{}',
    [SETUP_FILE]: JSON.stringify(made),
    [`node_modules/${made.package}/index.js`]: PACKAGE,
    'node_modules/node-api-headers/index.js': 'exports.include_dir = "/nowhere"',
    ...Object.fromEntries(libraries.map((name) => [`tensorflow/${name}`, ''])),
  });
}

function write(folder: string, files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), {recursive: true});
    writeFileSync(join(folder, name), text);
  }
}

/** A fake compiler that records its arguments and writes the file `result` for every output. */
export class FakeCompiler {
  readonly path: string;

  constructor(
    private readonly folder: string,
    result: string,
  ) {
    this.path = this.script(
      'compiler',
      `echo "$*" >> '${join(folder, 'calls')}'
while [ $# -gt 0 ]; do [ "$1" = -o ] && cp '${result}' "$2"; shift; done`,
    );
  }

  /** Returns the arguments of each call, except for calls that only get the version. */
  get calls(): string[] {
    try {
      const lines = readFileSync(join(this.folder, 'calls'), 'utf8').trim().split('\n');
      return lines.filter((line) => line !== '--version');
    } catch {
      return [];
    }
  }

  /** Makes a compiler that fails with a message. */
  failing(message: string): string {
    return this.script('failing', `echo "note: nothing" >&2\necho "${message}" >&2\nexit 1`);
  }

  private script(name: string, body: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, `#!/bin/sh\n${body}\n`, {mode: 0o755});
    return path;
  }
}
