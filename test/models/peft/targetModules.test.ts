import fc from 'fast-check';
import {matchTargets} from '../../../models/peft/targetModules.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';

const KINDS = ['self_attn.q_proj', 'self_attn.v_proj', 'mlp.up_proj', 'mlp.gate_up_proj'];
const linear = [...Array(12).keys()]
  .flatMap((i) => KINDS.map((kind) => `model.layers.${i}.${kind}`))
  .concat('lm_head');
const tied = 'shares the table';
const candidates = {linear, head: 'lm_head', refused: new Map([['model.embed_tokens', tied]])};

const refusal = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return error as TfjsLoraError;
  }
  throw new Error('expected an error');
};

test('excludes the head from all-linear', () => {
  expect(matchTargets('all-linear', candidates)).toEqual(linear.slice(0, -1));
});

test('matches a list with whole last names, not the ends of words', () => {
  expect(matchTargets(['up_proj'], candidates)).toHaveLength(12);
  expect(matchTargets(['lm_head', 'q_proj'], candidates)).toHaveLength(13);
  expect(matchTargets(['model.layers.1.self_attn.q_proj'], candidates)).toEqual([
    'model.layers.1.self_attn.q_proj',
  ]);
});

test('matches a string or RegExp with the whole name', () => {
  const wanted = ['model.layers.1.self_attn.q_proj', 'model.layers.1.self_attn.v_proj'];
  expect(matchTargets('model\\.layers\\.1\\.self_attn\\.[qv]_proj', candidates)).toEqual(wanted);
  expect(matchTargets(/.*\.layers\.1\.SELF_ATTN\..*/gi, candidates)).toEqual(wanted);
  expect(refusal(() => matchTargets('q_proj', candidates)).message).toMatch(
    /^LoRA target q_proj: expected a linear layer .* A string is a regular expression for the whole name .* pass a list/,
  );
});

test.each([
  ['all', "For every linear layer, pass 'all-linear'."],
  ['all_linear', "For every linear layer, pass 'all-linear'."],
  ['q_proj,v_proj', 'pass a list for names: ["q_proj", "v_proj"].'],
])('says how to write the target %s of other libraries', (target, advice) => {
  expect(refusal(() => matchTargets(target, candidates)).message).toContain(advice);
});

test('lists the names nearest to an unknown target', () => {
  const error = refusal(() => matchTargets(['q_porj'], candidates));
  expect(error.code).toBe('UNKNOWN_TARGET');
  expect(error.message).toMatch(/^LoRA target q_porj: .* Nearest: q_proj,/);
});

test('excludes layers by name, by its end or by an expression', () => {
  const all = matchTargets(['q_proj', 'v_proj'], candidates);
  const exclude = (excludeModules: string | string[]) =>
    matchTargets(['q_proj', 'v_proj'], candidates, undefined, {excludeModules});
  expect(exclude(['v_proj'])).toEqual(all.filter((name) => name.endsWith('q_proj')));
  expect(exclude(['model.layers.3.self_attn.v_proj'])).toHaveLength(23);
  expect(exclude('.*\\.[0-9]\\.self_attn.*')).toEqual(all.filter((name) => /\.1[01]\./.test(name)));
  expect(exclude([])).toEqual(all);
  expect(
    matchTargets(['embed_tokens', 'q_proj'], candidates, undefined, {excludeModules: ['embed_tokens']}),
  ).toEqual(exclude(['v_proj']));
  expect(refusal(() => exclude(['q_proj', 'v_proj'])).message).toMatch(
    /excludeModules: expected layers .* got q_proj, v_proj/,
  );
  expect(refusal(() => exclude(['k_porj'])).message).toMatch(/^LoRA excludeModules k_porj: .* Nearest: /);
});

test('ignores names in a loaded config that match nothing, if another matches', () => {
  const loaded = (targets: string[], excludeModules?: string[]) =>
    matchTargets(targets, candidates, undefined, {allowForeign: true, excludeModules});
  expect(loaded(['c_attn', 'q_proj'], ['c_proj'])).toEqual(matchTargets(['q_proj'], candidates));
  expect(refusal(() => loaded(['c_attn', 'query_key_value'])).code).toBe('UNKNOWN_TARGET');
});

test('finds blocks as PEFT does', () => {
  const up = 'model.layers.0.mlp.up_proj';
  const q = (i: number) => `model.layers.${i}.self_attn.q_proj`;
  expect(matchTargets(['q_proj'], candidates, [])).toHaveLength(12);
  expect(matchTargets(['q_proj', up], candidates, 1)).toEqual([up, q(1)]); // a full name is in any block
  const inList = (layersPattern: string | string[]) =>
    matchTargets(['q_proj'], candidates, [1, 2], {layersPattern});
  expect(inList('layers')).toEqual([q(1), q(2)]);
  expect(inList(['h', 'model.layers'])).toEqual([q(1), q(2)]);
  expect(inList('')).toEqual([q(1), q(2)]);
  expect(refusal(() => inList('h')).code).toBe('UNKNOWN_TARGET');
});

test('refusals', () => {
  expect(refusal(() => matchTargets(['embed_tokens'], candidates))).toMatchObject({
    code: 'UNSUPPORTED',
    message: `LoRA target embed_tokens: model.embed_tokens cannot be adapted: ${tied}`,
  });
  expect(refusal(() => matchTargets([], candidates)).code).toBe('INVALID_ARGUMENT');
  expect(refusal(() => matchTargets('(', candidates)).code).toBe('INVALID_ARGUMENT');
  expect(refusal(() => matchTargets(['q_proj'], candidates, [12])).message).toMatch(
    /layersToTransform: expected layers that have a target, got 12/,
  );
  expect(refusal(() => matchTargets('all-linear', candidates, [12])).code).toBe('UNKNOWN_TARGET');
});

test('selects for any list and layers exactly what their definition says', () => {
  const names = fc.uniqueArray(fc.constantFrom('q_proj', 'v_proj', 'up_proj', 'gate_up_proj'), {
    minLength: 1,
  });
  const layers = fc.option(fc.uniqueArray(fc.nat(11), {minLength: 1}), {nil: undefined});
  fc.assert(
    fc.property(names, layers, (targets, chosen) => {
      const expected = linear.filter((name) => {
        const parts = name.split('.');
        return (
          (targets as string[]).includes(parts.at(-1) as string) &&
          (!chosen || chosen.includes(Number(parts[2])))
        );
      });
      expect(matchTargets(targets, candidates, chosen)).toEqual(expected);
      // As a pattern for the whole name it is the same.
      const pattern = `.*\\.(${targets.join('|')})`;
      expect(matchTargets(pattern, candidates, chosen)).toEqual(expected);
    }),
  );
});

test('returns names in the model’s order, or a typed error, for any target', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.array(fc.string(), {maxLength: 3})), (target) => {
      try {
        const found = matchTargets(target, candidates);
        expect(found).toEqual(linear.filter((name) => found.includes(name)));
      } catch (error) {
        expect(error).toBeInstanceOf(TfjsLoraError);
      }
    }),
  );
});
