import {join} from 'node:path';
import ts from 'typescript';
import {type Snippet, snippets} from './snippets.ts';

/* Type-checks the TypeScript in README.md and docs/ against the sources. A block is a module of its own. */

const root = join(__dirname, '../..');
const all = snippets().filter(({language}) => language === 'ts');

function typeErrors(): string[] {
  const modules = new Map<string, {snippet: Snippet; text: string}>();
  for (const [index, snippet] of all.entries()) {
    const file = join(root, 'docs', `${snippet.name ?? `snippet${index}`}.ts`);
    modules.set(file, {snippet, text: `export {};\n${snippet.code}`});
  }
  const {compilerOptions} = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile).config;
  const {options, errors} = ts.convertCompilerOptionsFromJson(
    {...compilerOptions, noUnusedLocals: false, noUnusedParameters: false, types: ['node']},
    root,
  );
  if (errors.length > 0) throw new Error(ts.formatDiagnostics(errors, formatHost));
  const host = ts.createCompilerHost({...options, configFilePath: join(root, 'tsconfig.json')});
  const {fileExists, getSourceFile, readFile} = host;
  host.fileExists = (file) => modules.has(file) || fileExists(file);
  host.readFile = (file) => modules.get(file)?.text ?? readFile(file);
  host.getSourceFile = (file, language, ...rest) => {
    const module = modules.get(file);
    return module ? ts.createSourceFile(file, module.text, language) : getSourceFile(file, language, ...rest);
  };
  const program = ts.createProgram([...modules.keys()], options, host);
  const errorsIn = (file: string) => {
    const source = program.getSourceFile(file);
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  };
  return [...modules].flatMap(([file, {snippet}]) =>
    errorsIn(file).map(({file: source, start = 0, messageText}) => {
      const line = source ? source.getLineAndCharacterOfPosition(start).line : 0;
      return `${snippet.page}:${snippet.line + line - 1} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    }),
  );
}

const formatHost: ts.FormatDiagnosticsHost = {
  getCurrentDirectory: () => root,
  getCanonicalFileName: (name) => name,
  getNewLine: () => '\n',
};

test('every snippet of the README and the guides type-checks against the sources', () => {
  expect(all.length).toBeGreaterThan(20);
  expect(typeErrors()).toEqual([]);
}, 120_000);
