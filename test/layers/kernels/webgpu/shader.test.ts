import type * as tf from '@tensorflow/tfjs';
import type {ShaderCall} from '../../../../layers/kernels/webgpu/device/runShader.ts';
import {
  numbered,
  type Shader,
  type ShaderDeclaration,
  shader,
  typed,
} from '../../../../layers/kernels/webgpu/device/shader.ts';

const scaled = shader((hasBase: boolean) => ({
  name: 'Scaled',
  outputs: {y: 'vec4f', sums: 'f32'},
  inputs: {x: 'vec4f', base: hasBase ? 'vec4f' : undefined, ids: 'i32'},
  uniforms: {count: 'u32', past: 'counter', label: 'i32', scale: 'f32'},
  workgroup: 64,
  header: 'enable f16;',
  globals: 'const ROWS = 1u;',
  body: `
  let i = flatGroup * WORKGROUP + local;
  y[i] = u.scale * x[i];`,
}));

/** Removes white space that has no meaning. */
const lines = ({code}: Shader) =>
  code
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);

const mainOf = (body: string) =>
  lines(shader(() => ({name: 'Any', outputs: {y: 'f32'}, inputs: {}, workgroup: 1, body}))()).find((line) =>
    line.startsWith('fn main('),
  );

describe('shader', () => {
  test('numbers outputs, inputs and uniforms in their order', () => {
    expect(lines(scaled(true))).toEqual([
      'enable f16;',
      'const WORKGROUP = 64u;',
      'struct Uniforms { count: u32, past: u32, label: i32, scale: f32 }',
      '@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;',
      '@group(0) @binding(1) var<storage, read_write> sums: array<f32>;',
      '@group(0) @binding(2) var<storage, read> x: array<vec4f>;',
      '@group(0) @binding(3) var<storage, read> base: array<vec4f>;',
      '@group(0) @binding(4) var<storage, read> ids: array<i32>;',
      '@group(0) @binding(5) var<uniform> u: Uniforms;',
      'const ROWS = 1u;',
      '@compute @workgroup_size(WORKGROUP)',
      'fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) local: u32) {',
      'let flatGroup = group.y * groups.x + group.x;',
      'let i = flatGroup * WORKGROUP + local;',
      'y[i] = u.scale * x[i];',
      '}',
    ]);
    expect(scaled(true).buffers).toEqual(['y', 'sums', 'x', 'base', 'ids']);
  });

  test('leaves a buffer without a type out', () => {
    expect(scaled(false).buffers).toEqual(['y', 'sums', 'x', 'ids']);
    expect(scaled(false).code).toContain('@binding(3) var<storage, read> ids: array<i32>;');
    expect(scaled(false).code).not.toContain('base');
  });

  test('declares no uniforms if there are none', () => {
    const {code, uniforms} = shader(() => ({name: 'Any', outputs: {}, inputs: {}, workgroup: 1, body: ''}))();
    expect(uniforms).toEqual([]);
    expect(code).not.toContain('uniform');
  });

  test.each([
    ['y[group.x] = 0.0;', '@builtin(workgroup_id) group: vec3u'],
    [
      'y[thread.x] = f32(groups.x);',
      '@builtin(num_workgroups) groups: vec3u, @builtin(global_invocation_id) thread: vec3u',
    ],
    [
      'y[subgroup] = f32(lane);',
      '@builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32',
    ],
    ['y[u.groups] = f32(u.local);', ''],
  ])('%s: main takes what the body names', (body, parameters) => {
    expect(mainOf(body)).toBe(`fn main(${parameters}) {`);
  });

  test('builds a text once for its parameters', () => {
    let built = 0;
    const counted = shader(
      (rows: number, {isWide}: {isWide: boolean}, format: {key: string; code(): string}) => {
        built++;
        const body = `// ${rows} ${isWide} ${format.code()}`;
        return {name: 'Any', outputs: {y: 'f32'}, inputs: {}, workgroup: 1, body};
      },
    );
    const format = (key: string) => ({key, code: () => key});
    const first = counted(1, {isWide: true}, format('a'));
    expect(counted(1, {isWide: true}, format('a'))).toBe(first);
    expect(built).toBe(1);
    const others = [counted(2, {isWide: true}, format('a')), counted(1, {isWide: false}, format('a'))];
    const all = [first, ...others, counted(1, {isWide: true}, format('b'))];
    expect(new Set(all.map(({code}) => code)).size).toBe(4);
  });

  test('a call with a missing or wrong name does not compile', () => {
    const x = {} as tf.TensorInfo;
    const check = <D extends ShaderDeclaration>(call: ShaderCall<D>) => call;
    const buffers = {y: x, sums: x, x, base: undefined, ids: x};
    const uniforms = {count: 1, past: 2, label: 3, scale: 4};
    check({shader: scaled(false), buffers, uniforms});
    // @ts-expect-error: no ids
    check({shader: scaled(false), buffers: {y: x, sums: x, x, base: undefined}, uniforms});
    // @ts-expect-error: y is not optional
    check({shader: scaled(false), buffers: {...buffers, y: undefined}, uniforms});
    // @ts-expect-error: no such buffer
    check({shader: scaled(false), buffers: {y: x, sums: x, x, base: x, ids: x, z: x}, uniforms});
    // @ts-expect-error: no scale
    check({shader: scaled(false), buffers, uniforms: {count: 1, past: 2, label: 3}});
    // @ts-expect-error: no such uniform
    check({shader: scaled(false), buffers, uniforms: {count: 1, past: 2, label: 3, scale: 4, rate: 5}});
    expect.assertions(0);
  });

  test('gives one type, or numbers, to several names', () => {
    expect(typed(['a', 'b'], 'f32')).toEqual({a: 'f32', b: 'f32'});
    expect(numbered('x', 2, (i) => 10 * i)).toEqual({x0: 0, x1: 10});
  });
});
