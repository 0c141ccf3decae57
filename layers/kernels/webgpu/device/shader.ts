import type {RowsView} from './rowsView.ts';

/** WGSL type of a buffer's elements; undefined leaves the buffer out of the shader. */
export type ElementType = 'f32' | 'i32' | 'u32' | 'vec2f' | 'vec2u' | 'vec4f' | 'vec4u' | undefined;

/** Type of a uniform. A `counter` is a u32 that grows by one with each replay of recorded commands. */
export type UniformType = 'u32' | 'i32' | 'f32' | 'counter';

/** A shader in WGSL, from which its bindings, its uniform struct and the signature of `main` follow. */
export interface ShaderDeclaration {
  /** Name shown in profiles and by graphics debuggers. */
  name: string;
  /** Buffers that the shader writes, and may read, by the name of their array in WGSL. */
  outputs: Record<string, ElementType>;
  /** Buffers that the shader only reads. */
  inputs: Record<string, ElementType>;
  /** Values that WGSL reads as `u.<name>`. */
  uniforms?: Record<string, UniformType>;
  /** Threads in a workgroup; `WORKGROUP` in WGSL. */
  workgroup: number;
  /** WGSL that must come first: directives. */
  header?: string;
  /** WGSL outside `main`: constants, functions, workgroup memory. */
  globals?: string;
  /** WGSL of `main`, which may use the names of {@link BUILTINS} and `flatGroup`. */
  body: string;
}

/** Arguments of `main`, which gets those that the body names. The last two need `enable subgroups`. */
const BUILTINS: Record<string, [builtin: string, type: string]> = {
  group: ['workgroup_id', 'vec3u'],
  groups: ['num_workgroups', 'vec3u'],
  local: ['local_invocation_index', 'u32'],
  thread: ['global_invocation_id', 'vec3u'],
  subgroup: ['subgroup_id', 'u32'],
  lane: ['subgroup_invocation_id', 'u32'],
};

/** Computes a workgroup's index if the call gives the total number of workgroups or of threads. */
const FLAT_GROUP = 'let flatGroup = group.y * groups.x + group.x;';

/** A declared shader: its WGSL, and the order in which its buffers and uniforms are bound. */
export interface Shader<D extends ShaderDeclaration = ShaderDeclaration> {
  /** Exists only for the compiler. */
  readonly types?: D;
  name: string;
  code: string;
  workgroup: number;
  outputs: string[];
  /** The bindings: the outputs, then the inputs. */
  buffers: string[];
  uniforms: {name: string; type: UniformType}[];
}

type Tensors<B> = {[K in keyof B]: undefined extends B[K] ? RowsView | undefined : RowsView};

/** Tensors for all buffers of a shader. */
export type BuffersOf<D extends ShaderDeclaration> = Tensors<D['outputs']> & Tensors<D['inputs']>;

/** Values for all uniforms of a shader. */
export type ValuesOf<D extends ShaderDeclaration> = {[K in keyof NonNullable<D['uniforms']>]: number};

/** What a declaration may depend on: plain values, objects of them, and objects that their `key` represents. */
type Parameter = string | number | boolean | object;

/** Number of a shader's variants that are kept; beyond it they are built again. One takes a few kilobytes. */
const MAX_VARIANTS = 512;

/**
 * Declares a shader. Its text is built once for each set of parameters, because building it, and finding its pipeline
 * by a text just joined, costs the host more than the dispatch itself.
 *
 * @param declare returns the declaration, which must depend only on the parameters
 * @returns a function that returns the shader for some parameters; `runShader` runs it
 */
export function shader<P extends Parameter[], D extends ShaderDeclaration>(
  declare: (...parameters: P) => D,
): (...parameters: P) => Shader<D> {
  const variants = new Map<string, Shader<D>>();
  return (...parameters) => {
    let key = '';
    for (const parameter of parameters) key += `${keyOf(parameter)} `;
    const known = variants.get(key);
    if (known) return known;
    if (variants.size >= MAX_VARIANTS) variants.clear();
    const variant = built(declare(...parameters));
    variants.set(key, variant);
    return variant;
  };
}

function keyOf(parameter: unknown): string {
  if (typeof parameter !== 'object' || parameter === null) return `${parameter}`;
  if ('key' in parameter) return parameter.key as string;
  let key = '';
  for (const name in parameter) key += `${keyOf(parameter[name as never])},`;
  return key;
}

function built<D extends ShaderDeclaration>(declaration: D): Shader<D> {
  const {name, workgroup} = declaration;
  const [outputs, inputs] = [declaration.outputs, declaration.inputs].map(present);
  return {
    name,
    workgroup,
    code: textOf(declaration, outputs, inputs),
    outputs: outputs.map(([output]) => output),
    buffers: [...outputs, ...inputs].map(([buffer]) => buffer),
    uniforms: Object.entries(declaration.uniforms ?? {}).map(([uniform, type]) => ({name: uniform, type})),
  };
}

type Elements = [name: string, type: ElementType][];

const present = (buffers: Record<string, ElementType>): Elements =>
  Object.entries(buffers).filter(([, type]) => type !== undefined);

function textOf(
  {uniforms = {}, workgroup, header = '', globals = '', body}: ShaderDeclaration,
  outputs: Elements,
  inputs: Elements,
): string {
  const members = Object.entries(uniforms).map(
    ([name, type]) => `${name}: ${type === 'counter' ? 'u32' : type}`,
  );
  const variables = [
    ...outputs.map(([name, type]) => `<storage, read_write> ${name}: array<${type}>`),
    ...inputs.map(([name, type]) => `<storage, read> ${name}: array<${type}>`),
    ...(members.length > 0 ? ['<uniform> u: Uniforms'] : []),
  ];
  const main = /\bflatGroup\b/.test(body) ? `${FLAT_GROUP}\n${body}` : body;
  const named = new Set(main.match(/\.?[a-z]\w*/gi)); // a member's name begins with its dot
  const given = Object.entries(BUILTINS).filter(([name]) => named.has(name));
  return `${header}
const WORKGROUP = ${workgroup}u;
${members.length > 0 ? `struct Uniforms { ${members.join(', ')} }` : ''}
${variables.map((variable, i) => `@group(0) @binding(${i}) var${variable};`).join('\n')}
${globals}
@compute @workgroup_size(WORKGROUP)
fn main(${given.map(([name, [builtin, type]]) => `@builtin(${builtin}) ${name}: ${type}`).join(', ')}) {
  ${main}
}`;
}

/** Gives several buffers or uniforms the same type. */
export const typed = <K extends string, const T>(names: readonly K[], type: T): Record<K, T> =>
  Object.fromEntries(names.map((name) => [name, type])) as Record<K, T>;

/** Makes an object with `<name>0`, `<name>1` …, whose values `make` returns for each number. */
export const numbered = <const T>(name: string, count: number, make: (i: number) => T): Record<string, T> =>
  Object.fromEntries(Array.from({length: count}, (_, i) => [`${name}${i}`, make(i)]));
