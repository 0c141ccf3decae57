import {loraSettings, respelledByKeras} from '../../../layers/loraFields.ts';
import {peftFields} from '../../../models/peft/loraOptions.ts';
import {formatPeftConfig, parsePeftConfig} from '../../../models/peft/peftConfig.ts';

test('writes every setting to a file of PEFT and reads it back', () => {
  const values = {
    number: 0.5,
    flag: true,
    text: 'some/model',
    names: ['q_proj'],
    list: ['lm_head'],
    tokens: [3],
    layers: [1],
    numbers: {q_proj: 4},
    choice: 'all',
    ranges: [[0, 1]],
  };
  const options = Object.fromEntries(
    peftFields().map(({name, kind}) => [name, values[kind as keyof typeof values]]),
  );
  const file = formatPeftConfig(options, ['model.layers.1.self_attn.q_proj'], 'base');
  for (const {name, key} of peftFields()) expect([name, file[key]]).toEqual([name, options[name]]);
  expect(parsePeftConfig(file, 'it')).toEqual({...options, init: 'kaiming', freezeB: false});
});

test("keeps every setting of a layer in Keras's spelling", () => {
  const settings = loraSettings({rank: 3});
  expect(settings).toEqual({
    rank: 3,
    alpha: 6,
    dropout: 0,
    useRsLoRA: false,
    useDoRA: false,
    loraBias: false,
    init: 'kaiming',
    freezeB: false,
  });
  const toKeras = (name: string) =>
    name
      .replace(/(.)([A-Z][a-z0-9]+)/g, '$1_$2')
      .replace(/([a-z])([A-Z])/g, '$1_$2')
      .toLowerCase()
      .replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  const respelt = Object.entries(settings).map(([name, value]) => [toKeras(name), value]);
  expect(respelt.map(([name]) => name)).toContain('useRsLoRa');
  expect(respelledByKeras(Object.fromEntries(respelt))).toEqual(settings);
});
