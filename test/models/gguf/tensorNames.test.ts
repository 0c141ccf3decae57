import {permutedRows} from '../../../models/gguf/permutedRows.ts';
import {GGUF_ARCHITECTURES, ggufTensorName, modelTensorName} from '../../../models/gguf/tensorNames.ts';
import {modelTypes} from '../../../models/modelRegistry.ts';

const architecture = (wanted: string) => GGUF_ARCHITECTURES.find(({name}) => name === wanted)!;

describe('tensor names of GGUF files', () => {
  it.each([
    ['llama', 'token_embd.weight', 'model.embed_tokens.weight'],
    ['llama', 'output.weight', 'lm_head.weight'],
    ['llama', 'output_norm.weight', 'model.norm.weight'],
    ['llama', 'blk.11.attn_output.weight', 'model.layers.11.self_attn.o_proj.weight'],
    ['llama', 'blk.0.ffn_norm.weight', 'model.layers.0.post_attention_layernorm.weight'],
    ['qwen2', 'blk.3.attn_k.bias', 'model.layers.3.self_attn.k_proj.bias'],
    ['qwen3', 'blk.3.attn_q_norm.weight', 'model.layers.3.self_attn.q_norm.weight'],
    ['gemma2', 'blk.1.ffn_norm.weight', 'model.layers.1.pre_feedforward_layernorm.weight'],
    ['gemma3', 'blk.1.post_ffw_norm.weight', 'model.layers.1.post_feedforward_layernorm.weight'],
    ['phi3', 'blk.1.ffn_up.weight', 'model.layers.1.mlp.gate_up_proj.weight'],
  ])('%s: %s ↔ %s', (name, inFile, inModel) => {
    expect(modelTensorName(architecture(name), inFile)).toBe(inModel);
    expect(ggufTensorName(architecture(name), inModel)).toBe(inFile);
  });

  it('knows no tensor of another architecture', () => {
    expect(modelTensorName(architecture('llama'), 'blk.0.attn_q_norm.weight')).toBeUndefined();
    expect(modelTensorName(architecture('phi3'), 'blk.0.attn_q.weight')).toBeUndefined();
    expect(modelTensorName(architecture('llama'), 'blk.0.toString.weight')).toBeUndefined();
    expect(ggufTensorName(architecture('llama'), 'model.layers.0.mlp.gate_up_proj.weight')).toBeUndefined();
  });

  it('names registered families', () => {
    for (const {modelType} of GGUF_ARCHITECTURES) expect(modelTypes()).toContain(modelType);
  });
});

describe('permutedRows', () => {
  it('puts the halves of each head one after the other, and back', () => {
    const neighbours = Float32Array.from({length: 2 * 4 * 3}, (_, i) => i); // 2 heads of 4 rows of 3
    const halves = permutedRows(neighbours, 2, 4, 'halves');
    const rows = Array.from({length: 8}, (_, row) => halves[row * 3] / 3);
    expect(rows).toEqual([0, 2, 1, 3, 4, 6, 5, 7]);
    expect(permutedRows(halves, 2, 4, 'neighbours')).toEqual(neighbours);
  });
});
