import {describeNotebook, fewBills, rowOf} from './describeNotebook.ts';

describeNotebook('ranks-and-targets', fewBills, ({html}) => {
  for (const count of ['5,636,096', '11,272,192', '851,968']) expect(html).toContain(`>${count}<`); // of the guide
  const scores = html.slice(html.indexOf('BLEU-4'));
  const [base, rank8, rank16, attention] = [
    'base model',
    'rank 8, all linear layers',
    'rank 16, all linear layers',
    'rank 8, q_proj and v_proj',
  ].map((label) => rowOf(scores, label));
  expect([base, rank8, rank16, attention].map(([trainable]) => trainable)).toEqual([0, 77824, 155648, 14336]);
  const [loss, rougeL] = [1, 5];
  for (const all of [rank8, rank16]) {
    expect(all[loss]).toBeLessThan(attention[loss]);
    expect(all[rougeL]).toBeGreaterThan(attention[rougeL]);
  }
  expect(attention[loss]).toBeLessThan(base[loss]);
});
