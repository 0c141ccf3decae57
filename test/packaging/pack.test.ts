import {type ExecFileSyncOptions, execFileSync, spawnSync} from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import ts from 'typescript';
import packageJson from '../../package.json';
import {relativeLinks} from '../docs/links.ts';

/*
 * Installs the published tarball in an empty project and uses it as any user would: from an ES module, from CommonJS
 * and from strict TypeScript. It needs the built dist/, so run it with `npm run test:packaging`.
 */

const repository = path.resolve(__dirname, '../..');
const consumer = path.join(__dirname, 'consumer');
let project: string;
let packed: {filename: string; files: {path: string; mode: number}[]};

beforeAll(() => {
  project = fs.mkdtempSync(path.join(os.tmpdir(), 'tfjs-lora-pack-'));
  const json = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], repository);
  packed = JSON.parse(json)[0];
  fs.writeFileSync(path.join(project, 'package.json'), JSON.stringify({name: 'consumer', private: true}));
  const {'@tensorflow/tfjs': tfjs, '@types/node': nodeTypes} = packageJson.devDependencies;
  run('npm', [
    'install',
    '--prefer-offline',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    `./${packed.filename}`,
    `@tensorflow/tfjs@${tfjs}`,
    `@types/node@${nodeTypes}`,
  ]);
  for (const file of fs.readdirSync(consumer)) {
    fs.copyFileSync(path.join(consumer, file), path.join(project, file));
  }
  const parquet = 'alpaca-zstd.parquet';
  fs.copyFileSync(path.join(__dirname, '../src/data/fixtures', parquet), path.join(project, parquet));
}, 300_000);

afterAll(() => {
  fs.rmSync(project, {recursive: true, force: true});
});

/** Runs a program in the consumer's project. A failure throws an error with all its output. */
function run(program: string, args: string[], cwd = project): string {
  const options: ExecFileSyncOptions = {cwd, encoding: 'utf8', stdio: 'pipe', maxBuffer: 1 << 26};
  try {
    return execFileSync(program, args, options) as string;
  } catch (error) {
    const {stdout, stderr} = error as {stdout: string; stderr: string};
    throw new Error(`${program} ${args.join(' ')}\n${stdout}\n${stderr}`, {cause: error});
  }
}

describe('the tarball', () => {
  test('contains the build and its documents, and nothing else', () => {
    const outside = packed.files.map((file) => file.path).filter((name) => !name.startsWith('dist/'));
    const model = fs.readdirSync(path.join(repository, 'examples/quickstart/model'));
    const native = 'layers/kernels/tensorflow/native'; // compiled by `setup tensorflow`
    const sources = fs
      .readdirSync(path.join(repository, native), {recursive: true, withFileTypes: true})
      .filter((entry) => entry.isFile())
      .map(({parentPath, name}) => path.relative(path.join(repository, native), path.join(parentPath, name)));
    expect(sources).toEqual(expect.arrayContaining(['module.cc', 'ops.h']));
    const guides = fs.readdirSync(path.join(repository, 'docs')).filter((name) => /\.(md|svg)$/.test(name));
    expect(outside.sort()).toEqual([
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'SECURITY.md',
      'bin/tfjs-lora.js',
      ...[...guides, 'recipe.schema.json'].map((name) => `docs/${name}`).sort(),
      'examples/README.md', // npm packs the README of every folder with packed files
      ...model.map((name) => `examples/quickstart/model/${name}`).sort(),
      'layers/README.md',
      'layers/kernels/README.md',
      ...sources.map((name) => `${native}/${name}`).sort(),
      'package.json',
    ]);
    const inside = packed.files.map((file) => file.path).filter((name) => name.startsWith('dist/'));
    expect(inside.filter((name) => !/^dist\/[\w/-]+(\.d)?\.c?[jt]s(\.map)?$/.test(name))).toEqual([]);
  });

  test('contains every file that package.json names', () => {
    const names = new Set(packed.files.map((file) => `./${file.path}`));
    const named = JSON.stringify([
      packageJson.bin,
      packageJson.exports,
      packageJson.typesVersions,
      packageJson.main,
      packageJson.types,
    ]).match(/\.\/(bin|dist)\/[^"]+/g) as string[];
    expect(named.length).toBeGreaterThanOrEqual(48);
    expect(named.filter((name) => !names.has(name))).toEqual([]);
  });

  test.each(['README.md', 'CHANGELOG.md', 'SECURITY.md'])('contains the files that %s links to', (page) => {
    const names = new Set(packed.files.map((file) => file.path));
    const links = relativeLinks(repository, page);
    expect(links.length).toBeGreaterThan(0);
    expect(links.filter((link) => !names.has(link.path))).toEqual([]);
  });

  test('brings one copy of TensorFlow.js', () => {
    const copies = run('npm', ['ls', '--all', '--parseable', '@tensorflow/tfjs', '@tensorflow/tfjs-core']);
    expect(
      copies
        .trim()
        .split('\n')
        .map((line) => path.relative(project, line))
        .sort(),
    ).toEqual(['node_modules/@tensorflow/tfjs', 'node_modules/@tensorflow/tfjs-core']);
  });
});

describe.each(['use.mjs', 'use.cjs'])('%s', (file) => {
  // biome-ignore lint/suspicious/noExplicitAny: plain JSON, whose contents the tests check
  let report: any;

  beforeAll(() => {
    report = JSON.parse(run(process.execPath, [file]).trim().split('\n').pop() as string);
  }, 120_000);

  test('gets the same class from every subpath', () => {
    expect(report.shared.different).toEqual([]);
    expect(report.shared.shared).toEqual(expect.arrayContaining(['TfjsLoraError']));
  });

  test('calls functions of the other subpaths', () => {
    expect(report.around).toEqual({
      isNamed: true,
      plot: '<svg',
      table: 'a\n1',
      rouge: 1,
      templates: true,
      label: expect.any(String),
      calls: ['function', 'function', 'function', 'function'],
      recipe: 'FILE_NOT_FOUND',
    });
  });

  test('says what is missing for native TensorFlow', () => {
    expect(report.missing).toEqual({
      code: 'BACKEND_UNAVAILABLE',
      message: expect.stringContaining('@tensorflow/tfjs-node: not installed'),
    });
  });

  test('starts the wasm backend', () => {
    expect(report.backend).toBe('wasm');
  });

  test('writes and reads bfloat16 safetensors', () => {
    // Pi in bfloat16, which keeps 8 significant bits, is 3.140625.
    expect(report.safetensors).toEqual({dtype: 'BF16', shape: [2, 2], values: [1, -2.5, 3.140625, 0]});
  });

  test('gets typed errors', () => {
    expect(report.error).toEqual({thrown: true, isOurs: true, code: 'FILE_NOT_FOUND', nearest: ['q_proj']});
  });

  test('counts the parameters of Llama 3.2 1B', () => {
    expect(report.counts).toEqual({total: 1_235_814_400, trainable: 5_636_096});
  });

  test('fine-tunes a Llama', () => {
    expect(report.model).toEqual(expect.any(Object)); // after an error it would be a string
    const {losses, ...model} = report.model;
    expect(model).toMatchObject({
      isLayersModel: true,
      shape: [2, 6, 32],
      fresh: 0,
      gradients: 2 * 7 * 2, // A and B of seven linear layers in two blocks
      firstGradient: 'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight',
    });
    expect(model.trained).toBeGreaterThan(0.1);
    expect(model.merged).toBeLessThan(1e-4);
    expect(model.loaded).toBe(0);
    expect(losses.at(-1)).toBeLessThan(losses[0] / 2);
  });

  test('tokenizes on worker threads and reads Parquet', () => {
    expect(report.data).toEqual({same: true, examples: 200, parquet: 7, warnings: []});
  });

  test('uses and subclasses a single layer', () => {
    expect(report.layer).toEqual({
      shape: [2, 5],
      halved: 0,
      copied: 0,
      copyIsSubclass: true,
      trainable: 2,
      frozen: 2, // the base's weight and bias
    });
  });
});

describe('the command line', () => {
  const cli = (...args: string[]) => run(path.join(project, 'node_modules/.bin/tfjs-lora'), args);

  test('shows its version', () => {
    expect(cli('--version').trim()).toBe(packageJson.version);
  });

  test('finds a backend that works', () => {
    const report = JSON.parse(cli('doctor', '--json'));
    const works = (report.backends as {backend: string; available: boolean}[]).filter(
      ({available}) => available,
    );
    expect(works.map(({backend}) => backend)).toEqual(expect.arrayContaining(['wasm', 'cpu']));
    expect(works.map(({backend}) => backend)).toContain(report.chosen);
    expect(report.packages['@tensorflow/tfjs']).toBe(packageJson.devDependencies['@tensorflow/tfjs']);
  }, 120_000);

  test('runs the quickstart with the model in the package', () => {
    const settings = ['--epochs', '1', '--train-bills', '8', '--held-out-bills', '3', '--batch-size', '4'];
    expect(cli('quickstart', ...settings)).toContain('(reloaded: 3 of 3 summaries are the same)');
    expect(fs.existsSync(path.join(project, 'out/quickstart/adapter/adapter_model.safetensors'))).toBe(true);
  }, 120_000);

  test('trains with a recipe, and exports the merged adapter', () => {
    const records = [1, 2, 3, 4].map((n) => ({instruction: 'Count.', input: `${n}`, output: `${n + 1}`}));
    fs.writeFileSync(path.join(project, 'numbers.json'), JSON.stringify(records));
    const info = {numbers: {file_name: 'numbers.json'}};
    fs.writeFileSync(path.join(project, 'dataset_info.json'), JSON.stringify(info));
    const model = {
      model_name_or_path: 'node_modules/tfjs-lora/examples/quickstart/model',
      template: 'llama3',
    };
    const recipe = {
      ...model,
      ...{do_train: true, dataset: 'numbers', dataset_dir: '.', preprocessing_num_workers: 2},
      ...{output_dir: 'adapter', num_train_epochs: 1, per_device_train_batch_size: 2, plot_loss: true},
    };
    fs.writeFileSync(path.join(project, 'train.json'), JSON.stringify(recipe)); // JSON is YAML
    const merge = {...model, adapter_name_or_path: 'adapter', export_dir: 'merged'};
    fs.writeFileSync(path.join(project, 'merge.json'), JSON.stringify(merge));
    expect(cli('train', 'train.json', 'logging_steps=1', '--backend', 'wasm')).toMatch(/^train_loss +\d/m);
    expect(fs.readdirSync(path.join(project, 'adapter'))).toEqual(
      expect.arrayContaining(['adapter_model.safetensors', 'checkpoint-2', 'training_loss.png']),
    );
    expect(cli('export', 'merge.json', '--backend', 'wasm')).toContain('adapter merged in');
    expect(fs.existsSync(path.join(project, 'merged/model.safetensors'))).toBe(true);
  }, 120_000);

  test('ends with status 2 and the message alone after a mistake', () => {
    const {status, stderr} = spawnSync(
      process.execPath,
      ['node_modules/tfjs-lora/dist/cli/main.js', 'tran'],
      {
        cwd: project,
        encoding: 'utf8',
      },
    );
    expect(status).toBe(2);
    expect(stderr).toMatch(/^error: unknown command 'tran'/);
  });
});

describe('a package that extends the library', () => {
  const extras = () => path.join(project, 'extras');
  const ownTypescript = require.resolve('typescript/bin/tsc');

  beforeAll(() => {
    const source = path.join(repository, 'examples/downstream');
    fs.cpSync(source, extras(), {recursive: true, filter: (file) => path.basename(file) !== 'dist'});
    const {name} = JSON.parse(fs.readFileSync(path.join(source, 'package.json'), 'utf8'));
    fs.symlinkSync(extras(), path.join(project, 'node_modules', name), 'junction'); // as `npm install ./extras` does
  });

  test('is compiled against the published types, and passes its own tests', () => {
    run(process.execPath, [ownTypescript, '-p', '.'], extras());
    const tests = fs
      .readdirSync(path.join(extras(), 'dist/test'))
      .filter((file) => file.endsWith('.test.js'));
    expect(tests).toHaveLength(3);
    const report = run(process.execPath, ['--test', ...tests.map((file) => `dist/test/${file}`)], extras());
    expect(report).toMatch(/^[#ℹ] fail 0$/m);
    expect(Number(/^[#ℹ] pass (\d+)$/m.exec(report)?.[1])).toBeGreaterThanOrEqual(15);
  }, 300_000);

  test('is imported by its name, and refused if it loads another copy of the library', () => {
    const train = (module: string) =>
      spawnSync(
        process.execPath,
        ['node_modules/tfjs-lora/dist/cli/main.js', 'train', 'missing.yaml', '--import', module],
        {cwd: project, encoding: 'utf8'},
      );
    expect(train('tfjs-lora-extras').stderr).toMatch(/^recipe missing\.yaml: expected a YAML file/);
    fs.writeFileSync(path.join(project, 'extension.cjs'), "require('tfjs-lora');");
    const {status, stderr} = train('./extension.cjs');
    expect(status).toBe(2);
    expect(stderr).toMatch(
      /^--import \.\/extension\.cjs: expected a module that uses this copy of tfjs-lora \(.*\.js\), got one that also loads .*\.cjs\. /,
    );
  }, 120_000);
});

test('our declarations have no any', () => {
  const found: string[] = [];
  const visit = (node: ts.Node, file: ts.SourceFile) => {
    if (node.kind === ts.SyntaxKind.AnyKeyword && !isMixinConstructor(node)) {
      const {line} = file.getLineAndCharacterOfPosition(node.getStart(file));
      found.push(`${path.basename(file.fileName)}:${line + 1} ${node.parent.getText(file)}`);
    }
    ts.forEachChild(node, (child) => visit(child, file));
  };
  const dist = path.join(project, 'node_modules/tfjs-lora/dist');
  const declarations = fs
    .readdirSync(dist, {recursive: true, encoding: 'utf8'})
    .filter((file) => file.endsWith('.d.ts'));
  expect(declarations.length).toBeGreaterThan(12);
  for (const name of declarations) {
    const text = fs.readFileSync(path.join(dist, name), 'utf8');
    const file = ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true);
    visit(file, file);
  }
  expect(found).toEqual([]);
});

/** Whether an `any` is in `...args: any[]`, which TypeScript demands of a class that is mixed into another. */
function isMixinConstructor({parent}: ts.Node): boolean {
  return (
    ts.isArrayTypeNode(parent) && ts.isParameter(parent.parent) && parent.parent.dotDotDotToken !== undefined
  );
}

test('both module formats in one process do not disturb each other', () => {
  const {stdout, stderr} = spawnSync(process.execPath, ['both.mjs'], {cwd: project, encoding: 'utf8'});
  const [first, second] = stdout
    .trim()
    .split('\n')
    .slice(-2)
    .map((line) => JSON.parse(line));
  expect(second).toEqual(first);
  expect(stderr).not.toContain('already registered');
}, 120_000);

/*
 * TypeScript's resolvers read package.json differently: most use exports with import or require conditions, but the
 * oldest only uses main, types and typesVersions. tslab's notebooks use the oldest with their own TypeScript 5.0, which
 * also lacks the newer syntax of declarations.
 */
const typescript = require.resolve('typescript/bin/tsc');
const tslabTypescript = require.resolve('@tslab/typescript-for-tslab/bin/tsc');

describe.each([
  ['node16, ES module', typescript, 'strict.mts', {module: 'node16', moduleResolution: 'node16'}],
  ['node16, CommonJS', typescript, 'strict.cts', {module: 'node16', moduleResolution: 'node16'}],
  ['nodenext, ES module', typescript, 'strict.mts', {module: 'nodenext', moduleResolution: 'nodenext'}],
  ['bundler', typescript, 'strict.ts', {module: 'esnext', moduleResolution: 'bundler'}],
  [
    'node10',
    typescript,
    'strict.ts',
    {module: 'commonjs', moduleResolution: 'node10', ignoreDeprecations: '6.0'},
  ],
  ['tslab', tslabTypescript, 'strict.ts', {module: 'commonjs', moduleResolution: 'node'}],
] as const)('strict TypeScript, %s', (_, compiler, file, resolver) => {
  test('type-checks, as do our declarations', () => {
    const folder = fs.mkdtempSync(path.join(project, 'types-'));
    fs.copyFileSync(path.join(project, 'strict.ts'), path.join(folder, file));
    const compilerOptions = {
      ...resolver,
      target: 'es2022',
      lib: ['es2022', 'dom'],
      strict: true,
      noEmit: true,
      types: ['node'],
      skipLibCheck: false,
    };
    fs.writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify({compilerOptions, files: [file]}));
    expect(typeErrors(compiler, folder)).toEqual([]);
  }, 120_000);
});

/** Returns tsc's errors in the consumer's file and our declarations, without those of TensorFlow.js's declarations. */
function typeErrors(compiler: string, folder: string): string[] {
  const result = spawnSync(process.execPath, [compiler, '-p', folder, '--pretty', 'false'], {
    cwd: project,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (result.error) throw result.error;
  return `${result.stdout}${result.stderr}`
    .split('\n')
    .filter((line) => /error TS|^Error|^\w*Error:/.test(line))
    .filter((line) => !line.includes('node_modules/') || line.includes('node_modules/tfjs-lora/'));
}

// Last, because it removes packages from the project.
test('works without the optional packages, and names the command that installs those it needs', () => {
  for (const name of Object.keys(packageJson.optionalDependencies)) {
    fs.rmSync(path.join(project, 'node_modules', name), {recursive: true, force: true});
  }
  const script = `
    import {useBackend} from 'tfjs-lora';
    import {plotLoss} from 'tfjs-lora/plots';
    import {llamaFactoryScores} from 'tfjs-lora/metrics';
    const messageOf = (promise) => promise.then(() => 'none', ({code, message}) => code + ' ' + message);
    console.log(JSON.stringify({
      backend: (await useBackend()).backend,
      webgpu: await messageOf(useBackend('webgpu')),
      plot: await messageOf(plotLoss({training: [{step: 1, loss: 1}]})),
      chinese: await messageOf(llamaFactoryScores(['你好'], ['你好'])),
    }));`;
  const report = JSON.parse(
    run(process.execPath, ['--input-type=module', '-e', script]).trim().split('\n').pop() as string,
  );
  expect(report).toEqual({
    backend: 'wasm',
    webgpu: expect.stringMatching(/^BACKEND_UNAVAILABLE .*no package webgpu .* npm install webgpu/),
    plot: expect.stringMatching(
      /^UNSUPPORTED .* npm install vega vega-lite @resvg\/resvg-js @fontsource\/pt-sans$/,
    ),
    chinese: expect.stringMatching(/^UNSUPPORTED .* npm install @node-rs\/jieba$/),
  });
  expect(run(path.join(project, 'node_modules/.bin/tfjs-lora'), ['train', '--help'])).toContain('Examples:');
}, 120_000);
