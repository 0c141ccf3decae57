/**
 * Rewrites a shader that multiplies by subgroup matrices for a device that has none: 32 threads count as a subgroup, and
 * the first of them holds the matrices. Slow, for tests. Float16 is packed and unpacked by WGSL's own functions, here
 * and in other shaders that enable it.
 */
export function emulateMatrices(code: string): string {
  return code.includes('chromium_experimental_subgroup_matrix')
    ? withMatrices(withoutF16(code))
    : withoutF16(code);
}

function withoutF16(code: string): string {
  if (!/^enable f16;/m.test(code)) return code;
  const text = code
    .replace(/^enable f16;/m, '')
    .replace(
      /vec4f\(bitcast<vec4<f16>>\(words\)\)/g,
      'vec4f(unpack2x16float(words.x), unpack2x16float(words.y))',
    );
  const packed = replaceCalls(text, /bitcast<vec2u>\(vec4<f16>\(/, (_, [v]) => `(packed4(${v})`);
  return packed.replace(
    '@compute',
    'fn packed4(v: vec4f) -> vec2u { return vec2u(pack2x16float(v.xy), pack2x16float(v.zw)); }\n@compute',
  );
}

function withMatrices(code: string): string {
  const loaded = new Set<string>();
  const stored = new Set<string>();
  const halves = new Set([...code.matchAll(/var (\w+) = HalfSum\(\);/g)].map(([, name]) => name));
  let text = code
    .replace(
      /^(enable chromium_experimental_subgroup_matrix|diagnostic\(off, chromium[^;]*|alias [^;]*);$/gm,
      '',
    )
    .replace(/= (Half)?Sum\(\);/g, '= Matrix();')
    .replace(/(\w+) = subgroupMatrixMultiplyAccumulate\((\w+), (\w+), (\w+)\);/g, 'multiply(&$2, &$3, &$1);');
  text = replaceCalls(
    text,
    /((?:let|var) )?(\w+) = subgroupMatrixLoad<(?:Left|Right), (\w+)>\(/,
    ([, declared, name, order], args) => {
      const [array, offset, stride] = args;
      loaded.add(array.slice(1));
      return `${declared ? `var ${name}: Matrix; ` : ''}load_${array.slice(1)}(&${name}, ${offset}, ${stride}, ${order === 'row_major'})`;
    },
  );
  text = replaceCalls(text, /subgroupMatrixStore<row_major>\(/, (_, [array, offset, matrix, stride]) => {
    stored.add(array.slice(1));
    return `store_${array.slice(1)}(${offset}, &${matrix}, ${stride}, ${halves.has(matrix)});`;
  });
  const loads = [...loaded].map(
    (array) => `
fn load_${array}(m: ptr<function, Matrix>, offset: u32, stride: u32, isRowMajor: bool) {
  if (!isFirst) { return; }
  for (var r = 0u; r < 16u; r++) {
    for (var c = 0u; c < 16u; c++) {
      let word = ${array}[offset + r * stride + c / 8u][c % 8u / 2u];
      (*m).values[select(c * 16u + r, r * 16u + c, isRowMajor)] = unpack2x16float(word)[c % 2u];
    }
  }
}`,
  );
  const stores = [...stored].map(
    (array) => `
fn store_${array}(offset: u32, m: ptr<function, Matrix>, stride: u32, isHalf: bool) {
  if (!isFirst) { return; }
  for (var r = 0u; r < 16u; r++) {
    for (var c = 0u; c < 16u; c += 2u) {
      let pair = vec2f((*m).values[r * 16u + c], (*m).values[r * 16u + c + 1u]);
      if (isHalf) {
        ${array}[offset + r * stride + c / 8u][c % 8u / 2u] = pack2x16float(pair);
      } else {
        ${array}[offset + r * stride + c / 4u][c % 4u] = bitcast<u32>(pair.x);
        ${array}[offset + r * stride + c / 4u][c % 4u + 1u] = bitcast<u32>(pair.y);
      }
    }
  }
}`,
  );
  return text
    .replace(/@builtin\(subgroup_id\) subgroup: u32,? ?/, '')
    .replace(/@builtin\(subgroup_invocation_id\) lane: u32,? ?/, '')
    .replace(/@builtin\(local_invocation_index\) local: u32,? ?/, '')
    .replace('fn main(', 'fn main(@builtin(local_invocation_index) local: u32, ')
    .replace(
      /(fn main\([^{]*\{)/,
      '$1\n  let subgroup = local / 32u;\n  let lane = local % 32u;\n  isFirst = lane == 0u;',
    )
    .replace('@compute', `${[...loads, ...stores].join('\n')}\n${MULTIPLY}\n@compute`);
}

const MULTIPLY = `
struct Matrix { values: array<f32, 256> }
var<private> isFirst: bool;
fn multiply(a: ptr<function, Matrix>, b: ptr<function, Matrix>, sum: ptr<function, Matrix>) {
  if (!isFirst) { return; }
  for (var r = 0u; r < 16u; r++) {
    for (var c = 0u; c < 16u; c++) {
      var total = (*sum).values[r * 16u + c];
      for (var k = 0u; k < 16u; k++) { total += (*a).values[r * 16u + k] * (*b).values[k * 16u + c]; }
      (*sum).values[r * 16u + c] = total;
    }
  }
}`;

/** Replaces each call that begins with `head`, which ends with an open parenthesis, up to its `;`. */
function replaceCalls(
  text: string,
  head: RegExp,
  replace: (match: RegExpExecArray, args: string[]) => string,
): string {
  let result = '';
  let rest = text;
  for (let match = head.exec(rest); match; match = head.exec(rest)) {
    result += rest.slice(0, match.index);
    const args: string[] = [];
    let depth = 0;
    let begun = match.index + match[0].length;
    let at = begun;
    for (; depth >= 0; at++) {
      if (rest[at] === '(') depth++;
      if (rest[at] === ')') depth--;
      if (depth < 0 || (depth === 0 && rest[at] === ',')) {
        args.push(rest.slice(begun, at).trim());
        begun = at + 1;
      }
    }
    result += replace(match, args);
    rest = rest.slice(at);
  }
  return result + rest;
}
