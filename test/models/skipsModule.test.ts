import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {skipsModule} from '../../models/skipsModule.ts';

interface Golden {
  names: string[];
  cases: {list: string[]; skipped: string[]}[];
}

const {names, cases}: Golden = JSON.parse(
  readFileSync(join(__dirname, 'fixtures/skippedModules.json'), 'utf8'),
);

describe('skipsModule leaves out what transformers leaves out', () => {
  test.each(cases)('$list', ({list, skipped}) => {
    expect(names.filter(skipsModule(list, 'skipModules'))).toEqual(skipped);
  });

  test('has golden lists of every kind', () => {
    expect(new Set(cases.map(({skipped}) => skipped.length)).size).toBeGreaterThan(8);
  });
});

test('refuses invalid expressions, and finishes those that might never end', () => {
  expect(() => skipsModule(['lm_head', '*.mlp'], 'config.json list')).toThrow(
    expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(
        /config\.json list: expected a regular expression .* got "\(\?:\*\.mlp\)/,
      ),
    }),
  );
  expect(skipsModule(['(?:[a-z._0-9]+)+!'], 'list')('model.layers.0.self_attn.q_proj')).toBe(false);
});
