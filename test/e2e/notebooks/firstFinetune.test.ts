import {describeNotebook, fewBills, type Outputs} from './describeNotebook.ts';

/** Returns the numbers of `<name> <from> → <to>`. */
function change({text}: Outputs, name: string): [from: number, to: number] {
  const [, from, to] = new RegExp(`^${name} ([\\d.]+) → ([\\d.]+)$`, 'm').exec(text) ?? [];
  return [Number(from), Number(to)];
}

const {outputsOf} = describeNotebook('first-finetune', fewBills, (outputs) => {
  const [lossBefore, lossAfter] = change(outputs, 'held-out loss');
  expect(lossAfter).toBeLessThan(lossBefore / 2);
  const [rougeBefore, rougeAfter] = change(outputs, 'rougeL');
  expect(rougeAfter).toBeGreaterThan(rougeBefore + 10);
  expect(outputs.text).toContain('the reloaded adapter writes the same summary');
});

test('the committed outputs are those of the present model', () => {
  const [committed, executed] = [outputsOf('committed'), outputsOf('executed')];
  expect(change(committed, 'held-out loss')[0]).toBeCloseTo(change(executed, 'held-out loss')[0], 2);
  const summary = ({html}: Outputs) => /<caption[^>]*>llama \(Llama.*?<\/table>/s.exec(html)?.[0];
  expect(summary(committed)).toBe(summary(executed));
  expect(summary(executed)).toContain('77,824 of them train');
});
