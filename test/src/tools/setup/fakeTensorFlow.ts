import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {SETUP_FILE, type TensorFlowSetup} from '../../../../src/training/backends/tensorflowFolder.ts';

/** An addon for this machine that Node loads, of whatever package: what a fake compiler "compiles". */
export function someAddon(): string {
  const scope = join(__dirname, '../../../../node_modules/@resvg');
  const files = readdirSync(scope).flatMap((name) =>
    readdirSync(join(scope, name)).map((file) => join(scope, name, file)),
  );
  return files.find((file) => file.endsWith('.node')) as string;
}

/** A tfjs-node whose every product is 48, and every op's result 128. */
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

/** Lays out what `setup tensorflow --from wheel` leaves in `folder`, its library empty. */
export function layOutSetup(folder: string, setup: Partial<TensorFlowSetup> = {}): void {
  const made = {package: '@tensorflow/tfjs-node', version: '2.21.0', source: 'wheel', ...setup};
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

/** A compiler that notes what it is called with, and gives the file `result` for all it is asked for. */
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

  /** Its arguments, call by call, those that only ask for its version left out. */
  get calls(): string[] {
    try {
      const lines = readFileSync(join(this.folder, 'calls'), 'utf8').trim().split('\n');
      return lines.filter((line) => line !== '--version');
    } catch {
      return [];
    }
  }

  /** Another, that fails with what it says. */
  failing(message: string): string {
    return this.script('failing', `echo "note: nothing" >&2\necho "${message}" >&2\nexit 1`);
  }

  private script(name: string, body: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, `#!/bin/sh\n${body}\n`, {mode: 0o755});
    return path;
  }
}
