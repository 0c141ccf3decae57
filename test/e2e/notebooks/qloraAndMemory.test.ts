import {describeNotebook, fewBills, rowOf} from './describeNotebook.ts';

const {outputsOf} = describeNotebook('qlora-and-memory', fewBills, ({html}) => {
  const storages = ['float32', 'bfloat16', 'int8', 'nf4', 'nf4, doubleQuant'].map((name) =>
    rowOf(html, name),
  );
  expect(storages.map(([, bits]) => bits)).toEqual([32, 16, 8.21, 4.5, 4.13]);
  const perplexities = storages.map(([, , perplexity]) => perplexity);
  expect(Math.max(...perplexities)).toBeLessThan(1.02 * perplexities[0]);
  const [lora, qlora] = ['LoRA', 'QLoRA'].map((name) => rowOf(html, name));
  expect(qlora[0]).toBeLessThan(0.6 * lora[0]); // bytes of the weights
  expect(Math.abs(qlora[3] - lora[3])).toBeLessThan(0.15 * lora[3]); // held-out loss
  expect(lora[3]).toBeLessThan(1);
});

test('the committed memory of Llama 3.2 is that of the present estimate', () => {
  const plan = (from: 'committed' | 'executed') =>
    /<caption[^>]*>Peak of a training step.*?<\/table>/s.exec(outputsOf(from).html)?.[0];
  expect(plan('committed')).toBe(plan('executed'));
  expect(plan('executed')).toContain('llama-3.1-8b');
});
