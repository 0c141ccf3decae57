import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {modelClassOf, modelTypes, registerModel} from '../../models/modelRegistry.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, tinyConfig} from './tinyLlama.ts';

class TinyForCausalLM extends LlamaForCausalLM {
  static override className = 'TinyForCausalLM';
  static override readonly modelType = 'tiny';
  static override readonly architecture = 'TinyForCausalLM';
}

describeEachBackend('registerModel', () => {
  test('registers a family once', () => {
    registerModel(TinyForCausalLM);
    registerModel(TinyForCausalLM);
    expect(modelTypes().filter((type) => type === 'tiny')).toHaveLength(1);
    expect(modelClassOf({model_type: 'tiny'}, 'config.json')).toBe(TinyForCausalLM);
    expect(modelClassOf({model_type: 'llama'}, 'config.json')).toBe(LlamaForCausalLM);
  });

  test('refuses a family without its own names', async () => {
    class Unnamed extends LlamaForCausalLM {}
    class HalfNamed extends LlamaForCausalLM {
      static override readonly modelType = 'half-named';
    }
    class Empty extends LlamaForCausalLM {
      static override readonly modelType = '';
    }
    for (const [family, key] of [
      [Unnamed, 'modelType'],
      [HalfNamed, 'architecture'],
      [Empty, 'modelType'],
    ] as const) {
      const {code, message} = await errorOf(() => registerModel(family));
      expect(code).toBe('INVALID_ARGUMENT');
      expect(message).toMatch(new RegExp(`^registerModel ${key}: expected a new name, got ".*", with `));
    }
  });

  test.each([
    ['an unknown', {model_type: 'mamba'}, 'got "mamba"'],
    ['no', {}, 'got undefined'],
  ])('refuses %s model_type, naming the known ones', async (_, json, got) => {
    const {code, message} = await errorOf(() => modelClassOf(json, 'a/config.json'));
    expect(code).toBe('UNSUPPORTED');
    expect(message).toMatch(
      `a/config.json model_type: expected one of ${modelTypes().join(', ')}, ${got}. Add`,
    );
  });

  test('saves and loads a family that extends another under its own names', () =>
    inFolder(async (folder) => {
      const model = TinyForCausalLM.fromConfig(tinyConfig);
      expect([model.modelType, model.name]).toEqual(['tiny', 'tiny']);
      await model.save(folder);
      const names = {model_type: 'tiny', architectures: ['TinyForCausalLM']};
      expect(model.formatConfig('float32')).toMatchObject(names);
      const copy = await TinyForCausalLM.fromPretrained(folder);
      expect(copy.config.source).toMatchObject(names);
      expect(logitsOf(copy)).toEqual(logitsOf(model));
      expect((await errorOf(() => LlamaForCausalLM.fromPretrained(folder))).message).toMatch(
        'model_type: expected "llama", got "tiny"',
      );
      for (const one of [model, copy]) one.dispose();
    }));
});
