import * as tf from '@tensorflow/tfjs';
import {greedyChoice} from '../../../layers/ops/greedyChoice.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';

describeEachBackend('greedyChoice', () => {
  const rows = (...rows: number[][]) => tf.tensor2d(rows);

  test('takes the first of the largest', async () => {
    const wide = Array.from({length: 1000}, (_, i) => Math.sin(i));
    wide[300] = wide[556] = wide[301] = 7; // some of them belong to one thread
    const low = Array.from({length: 1000}, () => -3e38);
    const logits = rows(wide, low, wide.map((value) => -value).fill(9, 999));
    expect(Array.from(await greedyChoice(logits).data())).toEqual([300, 0, 999]);
    expectNoLeak(() => greedyChoice(logits));
  });

  test('chooses among few', async () => {
    expect(Array.from(await greedyChoice(rows([-5, -2, -2])).data())).toEqual([1]);
  });

  test('reports which logit is not finite', async () => {
    const wrong = rows(
      [1, Number.NaN, 3, Number.NaN],
      [1, 2, Infinity, 4],
      [-Infinity, 2, 3, 4],
      [1, 2, 3, 4],
    );
    expect(Array.from(await greedyChoice(wrong).data())).toEqual([-2, -3, -1, 3]);
  });
});
