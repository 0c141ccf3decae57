import {type GgufFileType, tensorType} from '../../../models/gguf/ggufFileType.ts';

const model = {layers: 16, isTied: false, is70B: false};
const typeOf = (fileType: GgufFileType, name: string, shape = [512, 512], more = {}) =>
  tensorType(fileType, name, shape, {...model, ...more}).name;

describe('tensorType', () => {
  it('gives more bits to values and ffn_down in some blocks, as llama.cpp does', () => {
    const blocks = (fileType: GgufFileType, module: string, layers: number) =>
      Array.from({length: layers}, (_, i) =>
        typeOf(fileType, `blk.${i}.${module}.weight`, [512, 512], {layers}),
      )
        .map((name, i) => (name === 'Q6_K' ? i : -1))
        .filter((i) => i >= 0);
    for (const module of ['attn_v', 'ffn_down']) {
      expect(blocks('q4_k_m', module, 16)).toEqual([0, 1, 4, 7, 10, 13, 14, 15]);
      expect(blocks('q5_k_m', module, 3)).toEqual([2]);
      expect(blocks('q4_0', module, 16)).toEqual([]);
    }
    expect(blocks('q4_k_m', 'attn_qkv', 3)).toEqual([2]);
    expect(blocks('q4_k_m', 'attn_k', 16)).toEqual([]);
  });

  it('gives a head six bits at least', () => {
    expect(typeOf('q4_k_m', 'output.weight')).toBe('Q6_K');
    expect(typeOf('q4_0', 'output.weight')).toBe('Q6_K');
    expect(typeOf('q8_0', 'output.weight')).toBe('Q8_0');
    expect(typeOf('q4_k_m', 'output.weight', [512, 96])).toBe('Q8_0');
    expect(typeOf('q4_k_m', 'token_embd.weight')).toBe('Q4_K');
    expect(typeOf('q4_k_m', 'token_embd.weight', [512, 512], {isTied: true})).toBe('Q6_K');
  });

  it('keeps vectors in float32, and rows that are not whole blocks in smaller ones', () => {
    expect(typeOf('q4_0', 'blk.0.attn_norm.weight', [512])).toBe('F32');
    expect(typeOf('f16', 'blk.0.attn_q.bias', [512])).toBe('F32');
    expect(typeOf('f16', 'blk.0.attn_q.weight')).toBe('F16');
    const fallbacks = (['q4_k_m', 'q5_k_m', 'q6_k', 'q4_0'] as const).map((fileType) =>
      typeOf(fileType, 'blk.5.attn_q.weight', [512, 96]),
    );
    expect(fallbacks).toEqual(['Q5_0', 'Q5_1', 'Q8_0', 'Q4_0']);
    expect(typeOf('q4_k_m', 'blk.5.attn_q.weight', [512, 100])).toBe('F16');
    expect(typeOf('q8_0', 'blk.5.attn_q.weight', [512, 100])).toBe('F16');
  });

  it('gives values of 70B models five bits', () => {
    expect(typeOf('q4_k_m', 'blk.20.attn_v.weight', [512, 512], {layers: 80, is70B: true})).toBe('Q5_K');
    expect(typeOf('q4_k_m', 'blk.0.attn_v.weight', [512, 512], {layers: 80, is70B: true})).toBe('Q6_K');
  });
});
