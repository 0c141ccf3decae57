import * as browser from '../../src/browser.ts';
import * as everything from '../../src/index.ts';
import * as noDisk from '../../src/tools/browser/noDisk.ts';
import {thrownBy} from '../quant/safetensors/thrownBy.ts';

/** What needs a disk, or other processes. */
const LEFT_OUT = ['loadDataset', 'loadSplits', 'joinCluster'];

test('the browser build exports all but what it cannot run', () => {
  expect([...Object.keys(browser), ...LEFT_OUT].sort()).toEqual(Object.keys(everything).sort());
  expect(everything).toEqual(expect.objectContaining(browser));
});

test('a path is refused where there is no disk', async () => {
  const {code, message} = await thrownBy(noDisk.openSync);
  expect([code, message]).toEqual(['UNSUPPORTED', expect.stringContaining('A browser has no disk')]);
  expect(noDisk.basename(noDisk.join('a', '', 'b/c'))).toBe('c');
  expect(noDisk.dirname('a/b/c')).toBe('a/b');
});
