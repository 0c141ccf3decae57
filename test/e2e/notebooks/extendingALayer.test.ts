import {describeNotebook, fewBills, rowOf} from './describeNotebook.ts';

describeNotebook('extending-a-layer', fewBills, ({text, html}) => {
  expect(text).toContain('outputs scaled by 0.0, 1.0, 2.0');
  const [, asLora, asTrained] = /held-out loss as plain LoRA ([\d.]+), as trained ([\d.]+)/.exec(text) ?? [];
  expect(asLora).toBe(asTrained);
  const [lora, loraFA, ia3] = ['LoRA', 'LoRA-FA', 'IA³'].map((label) => rowOf(html, label));
  expect([lora, loraFA, ia3].map(([trainable]) => trainable)).toEqual([77824, 40960, 2048]);
  expect(lora[1]).toBeLessThan(loraFA[1]);
  expect(loraFA[1]).toBeLessThan(ia3[1]);
  expect(ia3[1]).toBeLessThan(3);
});
