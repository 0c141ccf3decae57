import {cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {parse} from 'yaml';
import type {LlamaForCausalLM} from '../../../../models/llama/llama.ts';
import {DiskFolder} from '../../../../quant/folders/diskFolder.ts';
import {SafetensorsFolder} from '../../../../quant/folders/safetensorsFolder.ts';
import {GgufFiles} from '../../../../quant/gguf/ggufFiles.ts';
import {Llama, Tokenizer} from '../../../../src/index.ts';
import {type ExportArgs, exportModel} from '../../../../src/tools/recipes/exportModel.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyLlama} from '../../../models/tinyLlama.ts';

/** Makes a base with a card and terms, and two adapters for it. */
async function makeSources(folder: string, dtype: 'float32' | 'bfloat16' = 'bfloat16') {
  const [model, first, second] = ['base', 'first', 'second'].map((name) => join(folder, name));
  const base = tinyLlama({}, {dtype});
  await base.save(model);
  writeFileSync(
    join(model, 'README.md'),
    '---\nlicense: llama3.2\nlanguage:\n- en\ntags:\n- base\n---\n# Base\n',
  );
  writeFileSync(join(model, 'LICENSE.txt'), 'terms');
  base.applyLoRA({rank: 2, baseModelNameOrPath: 'somebody/tiny-llama'});
  stirAdapter(base);
  await base.saveAdapter(first);
  base.deleteAdapter('default');
  base.applyLoRA({rank: 1, useDoRA: true, targetModules: ['q_proj', 'down_proj']});
  stirAdapter(base, 'default', 9);
  await base.saveAdapter(second);
  base.dispose();
  return {model, first, second, exportDir: join(folder, 'export')};
}

/** Computes the logits of the base with adapters fused one after the other. */
async function expectedLogits(model: string, adapters: string[]): Promise<Float32Array> {
  const llama = await Llama.fromPretrained(model);
  for (const adapter of adapters) {
    await llama.loadAdapter(adapter);
    llama.fuseLoRA();
  }
  const logits = logitsOf(llama as LlamaForCausalLM);
  llama.dispose();
  return logits;
}

async function logitsOfFolder(folder: string): Promise<Float32Array> {
  return expectedLogits(folder, []);
}

const metadataOf = (card: string) => parse(card.split('---\n')[1]);

test.each(['float32', 'bfloat16'] as const)('merges adapters in order into a %s base', (dtype) =>
  inFolder(async (folder) => {
    const {model, first, second, exportDir} = await makeSources(folder, dtype);
    const base = await logitsOfFolder(model);
    const results = new Map<string, Float32Array>();
    for (const adapters of [[first], [first, second], [second, first]]) {
      const result = await exportModel({model, adapters, exportDir});
      expect(result).toEqual({
        files: ['model.safetensors'],
        bytes: expect.any(Number),
        parameters: 1152,
        dtype,
      });
      const logits = await logitsOfFolder(exportDir);
      expect(logits).toEqual(await expectedLogits(model, adapters));
      expect(logits).not.toEqual(base);
      results.set(adapters.join(), logits);
    }
    // The magnitudes of DoRA do not commute with another adapter.
    expect(results.get([first, second].join())).not.toEqual(results.get([second, first].join()));
  }),
);

test('writes shards of export_size, the config and the terms, and a card that names its sources', () =>
  inFolder(async (folder) => {
    const {model, first, second, exportDir} = await makeSources(folder);
    const {files, bytes} = await exportModel({
      model,
      adapters: [first, second],
      exportDir,
      exportSizeGB: 1e-6,
    });
    expect(files.length).toBeGreaterThan(1);
    expect(existsSync(join(exportDir, 'model.safetensors.index.json'))).toBe(true);
    expect(JSON.parse(readFileSync(join(exportDir, 'config.json'), 'utf8')).torch_dtype).toBe('bfloat16');
    expect(readFileSync(join(exportDir, 'LICENSE.txt'), 'utf8')).toBe('terms');
    const card = readFileSync(join(exportDir, 'README.md'), 'utf8');
    expect(metadataOf(card)).toEqual({
      base_model: 'somebody/tiny-llama',
      base_model_relation: 'finetune',
      library_name: 'transformers',
      pipeline_tag: 'text-generation',
      tags: ['tfjs-lora', 'llama', 'lora'],
      license: 'llama3.2',
      language: ['en'],
    });
    expect(card).toContain('| 1 | first | 2 | 4 | LoRA |');
    expect(card).toContain('| 2 | second | 1 | 2 | DoRA | q_proj, down_proj |');
    expect(card).toContain(
      `1,152 parameters in bfloat16, ${Number((bytes / 1e9).toPrecision(3))} GB in ${files.length} files`,
    );
  }));

test('a second export replaces the first, but not a card written by hand', () =>
  inFolder(async (folder) => {
    const {model, first, exportDir} = await makeSources(folder);
    await exportModel({model, exportDir, exportSizeGB: 1e-6});
    expect(await logitsOfFolder(exportDir)).toEqual(await logitsOfFolder(model));
    expect(readFileSync(join(exportDir, 'README.md'), 'utf8')).toContain('base, saved again without changes');
    await exportModel({model, adapters: [first], exportDir});
    expect(readdirSync(exportDir).filter((name) => name.includes('safetensors'))).toEqual([
      'model.safetensors',
    ]);
    expect(readFileSync(join(exportDir, 'README.md'), 'utf8')).toContain('| 1 | first |');
    writeFileSync(join(exportDir, 'README.md'), '# Mine\n');
    await exportModel({model, adapters: [first], exportDir});
    expect(readFileSync(join(exportDir, 'README.md'), 'utf8')).toBe('# Mine\n');
  }));

test('another dtype is used to load, merge and write', () =>
  inFolder(async (folder) => {
    const {model, first, exportDir} = await makeSources(folder);
    await exportModel({model, adapters: [first], exportDir, dtype: 'float32'});
    const checkpoint = SafetensorsFolder.open(exportDir);
    expect(checkpoint.info('model.layers.0.self_attn.q_proj.weight').dtype).toBe('F32');
    checkpoint.close();
    const llama = await Llama.fromPretrained(model, {dtype: 'float32'});
    await llama.loadAdapter(first);
    llama.fuseLoRA();
    expect(await logitsOfFolder(exportDir)).toEqual(logitsOf(llama as LlamaForCausalLM));
    llama.dispose();
  }));

test('the tokenizer and the generation config are exported too', () =>
  inFolder(async (folder) => {
    const exportDir = join(folder, 'out');
    const model = join(__dirname, '../../../../examples/quickstart/model');
    await exportModel({model, exportDir});
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
      expect(readFileSync(join(exportDir, name))).toEqual(readFileSync(join(model, name)));
    }
    const generationConfig = JSON.parse(readFileSync(join(exportDir, 'generation_config.json'), 'utf8'));
    expect(generationConfig).toEqual({bos_token_id: 2042, eos_token_id: 2046, pad_token_id: 2047});
  }));

describe('a template', () => {
  /** Makes a base from the quickstart's model that ends texts, not turns, and has its only chat template in a file. */
  function makeBase(folder: string, chatTemplate?: string): string {
    const base = join(folder, 'base');
    cpSync(join(__dirname, '../../../../examples/quickstart/model'), base, {recursive: true});
    const edit = (name: string, change: (json: Record<string, unknown>) => void) => {
      const json = JSON.parse(readFileSync(join(base, name), 'utf8'));
      change(json);
      writeFileSync(join(base, name), JSON.stringify(json));
    };
    edit('tokenizer_config.json', (json) => {
      delete json.chat_template;
      json.eos_token = '<|end_of_text|>';
    });
    for (const name of ['config.json', 'generation_config.json']) {
      edit(name, (json) => {
        json.eos_token_id = 2043;
      });
    }
    writeFileSync(join(base, 'special_tokens_map.json'), '{"eos_token": {"content": "<|end_of_text|>"}}');
    if (chatTemplate !== undefined) writeFileSync(join(base, 'chat_template.jinja'), chatTemplate);
    return base;
  }

  const jsonOf = (folder: string, name: string) => JSON.parse(readFileSync(join(folder, name), 'utf8'));

  test('is exported: chat template, end tokens, Modelfile', () =>
    inFolder(async (folder) => {
      const exportDir = join(folder, 'out');
      await exportModel({model: makeBase(folder), exportDir, template: 'llama3'});
      expect(jsonOf(exportDir, 'tokenizer_config.json')).toMatchObject({
        eos_token: '<|eot_id|>',
        pad_token: '<|finetune_right_pad_id|>',
        chat_template: expect.stringContaining("{{ content + '<|eot_id|>' }}"),
      });
      expect(jsonOf(exportDir, 'special_tokens_map.json')).toEqual({eos_token: '<|eot_id|>'});
      for (const name of ['config.json', 'generation_config.json'])
        expect(jsonOf(exportDir, name).eos_token_id).toEqual([2046, 2043]);
      expect(readFileSync(join(exportDir, 'Modelfile'), 'utf8')).toContain(
        'FROM .\n\nTEMPLATE """<|begin_of_text|>{{ if .System }}',
      );
      const model = await Llama.fromPretrained(exportDir);
      expect(model.tokenizer!.decode([model.tokenizer!.eosTokenId!])).toBe('<|eot_id|>');
      model.dispose();
    }));

  test("replaces the base's chat template if it says so", () =>
    inFolder(async (folder) => {
      const model = makeBase(folder, '{{ messages[0].content }}');
      const [kept, replaced] = ['kept', 'replaced'].map((name) => join(folder, name));
      await exportModel({model, exportDir: kept, template: 'llama3'});
      expect(readFileSync(join(kept, 'chat_template.jinja'), 'utf8')).toBe('{{ messages[0].content }}');
      expect(jsonOf(kept, 'tokenizer_config.json').chat_template).toBeUndefined();
      await exportModel({model, exportDir: replaced, template: 'alpaca', defaultSystem: 'Hello.'});
      expect(existsSync(join(replaced, 'chat_template.jinja'))).toBe(false);
      const {chat_template} = jsonOf(replaced, 'tokenizer_config.json');
      expect(chat_template).toContain("{% set system_message = 'Hello.' %}");
      expect(readFileSync(join(replaced, 'Modelfile'), 'utf8')).toContain('SYSTEM """Hello."""');
    }));
});

describe('refuses, before anything is written', () => {
  const refusal = (change: (args: ExportArgs, folder: string) => Partial<ExportArgs>) =>
    inFolder(async (folder) => {
      const {model, first, exportDir} = await makeSources(folder);
      const args = {model, adapters: [first], exportDir};
      const numTensors = tf.memory().numTensors;
      const error = await errorOf(() => exportModel({...args, ...change(args, folder)}));
      expect(existsSync(exportDir)).toBe(false);
      expect(tf.memory().numTensors).toBe(numTensors);
      return error;
    });

  test('a recipe that quantizes the base', async () => {
    const {code, message} = await refusal(() => ({quantization: {type: 'nf4'}}));
    expect(code).toBe('UNSUPPORTED');
    expect(message).toContain('export quantization_bit: expected an unquantized base');
    expect(message).toContain('Adapters cannot be merged into a quantized model: name the 16-bit model');
  });

  test('a quantized base', async () => {
    const {code, message} = await refusal(({model}) => {
      const path = join(model, 'config.json');
      const config = JSON.parse(readFileSync(path, 'utf8'));
      writeFileSync(path, JSON.stringify({...config, quantization_config: {quant_method: 'bitsandbytes'}}));
      return {};
    });
    expect(code).toBe('UNSUPPORTED');
    expect(message).toContain('config.json quantization_config: expected an unquantized base');
  });

  test('a folder that is read from, under any name', async () => {
    const linked = await refusal(({model}, folder) => {
      symlinkSync(model, join(folder, 'link'));
      return {exportDir: join(folder, 'link')};
    });
    expect(linked.message).toContain("expected a folder other than the base's and the adapters'");
    expect((await refusal(({adapters}) => ({exportDir: adapters![0]}))).code).toBe('INVALID_ARGUMENT');
  });

  test('an adapter that does not exist, or is not for this model', async () => {
    expect((await refusal(() => ({adapters: ['nowhere']}))).code).toBe('FILE_NOT_FOUND');
    const other = await refusal((_, folder) => {
      const adapter = join(folder, 'empty');
      mkdirSync(adapter);
      writeFileSync(join(adapter, 'adapter_config.json'), '{}');
      return {adapters: [adapter]};
    });
    expect(other.code).toBe('FILE_NOT_FOUND');
  });

  test('an unknown template', async () => {
    const {code, message} = await refusal(() => ({template: 'llama33'}));
    expect([code, message]).toEqual(['INVALID_ARGUMENT', expect.stringContaining('Nearest: llama3')]);
  });

  test('files without a size', async () => {
    expect((await refusal(() => ({exportSizeGB: 0}))).message).toContain('export_size: expected GB above 0');
  });
});

describe('a folder that holds', () => {
  test.each([
    ['a dataset', {'dataset_info.json': '{}', 'bills.json': '[]'}, 'bills.json, dataset_info.json'],
    ['more than a few files', {a: '', b: '', c: '', d: ''}, 'a, b, c …'],
    ['an adapter', {'adapter_config.json': '{}'}, 'adapter_config.json'],
    ['the config of something else', {'config.json': '{"name": "site"}'}, 'config.json'],
  ])('%s is refused and left as it is', (_, files, shown) =>
    inFolder(async (folder) => {
      const {model, exportDir} = await makeSources(folder);
      mkdirSync(exportDir);
      for (const [name, text] of Object.entries(files)) writeFileSync(join(exportDir, name), text);
      const {code, message} = await errorOf(() => exportModel({model, exportDir}));
      expect([code, message]).toEqual([
        'INVALID_ARGUMENT',
        `export_dir ${exportDir}: expected a new or empty folder, or a model's folder to replace, got one with ${shown}. ` +
          'Choose another folder: export_dir=<folder>.',
      ]);
      expect(readdirSync(exportDir)).toEqual(Object.keys(files).sort());
    }),
  );

  test.each([
    ['nothing', {}],
    ['a new repository', {'.gitattributes': '', 'README.md': '# Mine\n', LICENSE: ''}],
    ['an interrupted export', {'model-00001-of-00002.safetensors': '', 'generation_config.json': '{}'}],
    ['a model of transformers', {'config.json': '{"model_type": "llama"}', 'notes.txt': ''}],
  ])('%s is written into', (_, files) =>
    inFolder(async (folder) => {
      const {model, exportDir} = await makeSources(folder);
      mkdirSync(exportDir);
      for (const [name, text] of Object.entries(files)) writeFileSync(join(exportDir, name), text);
      await exportModel({model, exportDir});
      expect(await logitsOfFolder(exportDir)).toEqual(await logitsOfFolder(model));
    }),
  );
});

test('writes GGUF files beside each other, with the terms and a Modelfile', () =>
  inFolder(async (folder) => {
    const {model, first, exportDir} = await makeSources(folder);
    const files = join(__dirname, '../../../models/fixtures/tokenizers/byteLevel');
    const base = tinyLlama({vocabSize: 412}, {dtype: 'bfloat16'});
    base.tokenizer = await Tokenizer.fromFolder(files);
    await base.save(model);
    base.applyLoRA({rank: 2});
    stirAdapter(base);
    await base.saveAdapter(first);
    base.dispose();
    const args: ExportArgs = {model, adapters: [first], exportDir, format: 'gguf', template: 'alpaca'};
    expect(await exportModel(args)).toMatchObject({files: ['model-bf16.gguf'], ggufType: 'bf16'});
    const {bytes} = await exportModel({...args, ggufType: 'q8_0'});
    expect(readdirSync(exportDir).sort()).toEqual([
      'LICENSE.txt',
      'Modelfile',
      'model-bf16.gguf',
      'model-q8_0.gguf',
    ]);
    const file = readFileSync(join(exportDir, 'model-q8_0.gguf'));
    expect(file.length).toBe(bytes);
    expect(file.subarray(0, 4).toString()).toBe('GGUF');
    expect(readFileSync(join(exportDir, 'Modelfile'), 'utf8')).toContain('\nFROM ./model-q8_0.gguf\n');
    await expect(exportModel({...args, ggufType: 'q2_k' as 'q8_0'})).rejects.toThrow(
      'export_gguf_type: expected one of f32, f16, bf16, q8_0, q4_0, q4_k_m, q5_k_m, q6_k, got "q2_k"',
    );
    const alone: ExportArgs = {...args, format: 'gguf_adapter', quantization: {type: 'nf4'}};
    const adapter = await exportModel({...alone, ggufType: 'f16'});
    expect(adapter).toMatchObject({files: ['adapter-f16.gguf'], ggufType: 'f16'});
    const opened = await GgufFiles.open(new DiskFolder(exportDir), 'adapter-f16.gguf');
    opened.close();
    const {metadata, tensors} = opened;
    expect(metadata.get('general.type')).toEqual({type: 'string', value: 'adapter'});
    expect(tensors.get('blk.0.attn_q.weight.lora_a')).toMatchObject({shape: [2, 8], type: {name: 'F16'}});
    expect(readdirSync(exportDir)).toHaveLength(5);
    await expect(exportModel({...alone, ggufType: 'q8_0'})).rejects.toThrow(
      'export_gguf_type: expected one of f32, f16, bf16, got "q8_0"',
    );
    await expect(exportModel({...alone, adapters: []})).rejects.toThrow(
      'adapter_name_or_path: expected one adapter for export_format: gguf_adapter, got none',
    );
  }));

test('keeps no tensors', () =>
  inFolder(async (folder) => {
    const {model, first, exportDir} = await makeSources(folder);
    await expectNoLeak(async () => {
      await exportModel({model, adapters: [first], exportDir});
    });
  }));
