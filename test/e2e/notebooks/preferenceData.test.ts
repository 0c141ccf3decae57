import {describeNotebook, fewBills} from './describeNotebook.ts';

/** Returns share, likelihoods and margin of a kind of pair, from the last table. */
function rowOf(html: string, kind: string, model: string): number[] {
  const cells = [kind, model].map((text) => `<td style="text-align: left">${text}</td>`).join('');
  const row = html.split('<tr>').findLast((text) => text.startsWith(cells)) ?? '';
  return [...row.matchAll(/text-align: right">([^<]*)</g)].slice(1).map(([, cell]) => Number(cell));
}

describeNotebook('preference-data', fewBills, ({html}) => {
  const [share, chosen, rejected, margin] = [0, 1, 2, 3];
  const models = ['base', 'chosen answers', 'then pairs'];
  const [base, trained, paired] = models.map((model) => rowOf(html, 'copied', model));
  expect(base[share]).toBeLessThan(70);
  expect(trained[share]).toBeGreaterThan(90);
  expect(trained[margin]).toBeGreaterThan(base[margin] + 1);
  expect(paired[margin]).toBeGreaterThan(trained[margin] + 0.5);
  const [factBase, factTrained, factPaired] = models.map((model) => rowOf(html, 'wrong fact', model));
  for (const answer of [chosen, rejected]) expect(factTrained[answer]).toBeGreaterThan(factBase[answer] + 1);
  expect(Math.abs(factTrained[margin] - factBase[margin])).toBeLessThan(0.5);
  expect(factPaired[margin]).toBeGreaterThan(factTrained[margin]);
});
