import packageJson from '../../package.json';
import {compilerOptions} from '../../tsconfig.json';
import typedoc from '../../typedoc.json';

/** What the type check and the build take from tsconfig.json: `tfjs-lora/models` → its file. */
const {paths} = compilerOptions;

test('every subpath is exported, typed in old resolvers, and documented', () => {
  const names = Object.keys(paths).map((name) => name.replace('tfjs-lora', '.'));
  const modules = Object.entries(packageJson.exports).filter(([, target]) => typeof target !== 'string');
  expect(modules.map(([name]) => name)).toEqual(names);
  for (const [name, target] of modules) {
    const file = name === '.' ? './dist/index' : name.replace('.', './dist');
    expect(target).toMatchObject({
      import: {types: `${file}.d.ts`, default: `${file}.js`},
      require: {types: `${file}.d.cts`, default: `${file}.cjs`},
    });
    if (name !== '.')
      expect(packageJson.typesVersions['*']).toMatchObject({[name.slice(2)]: [`${file}.d.cts`]});
  }
  expect(typedoc.entryPoints.map((file) => `./${file}`)).toEqual(Object.values(paths).flat());
});
