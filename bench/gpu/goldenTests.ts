/**
 * Gives the golden tests (test/parity) what they use of jest, from `node:test` and jest's own packages, for a machine
 * with a card but without npm. packTensorFlow.sh bundles it before the tests, and run.sh starts it with `--golden`.
 */
import {after, afterEach, before, beforeEach, describe, it, test} from 'node:test';
import {expect} from 'expect';
import {bind} from 'jest-each';

type Register = (title: string, body: () => void) => void;

/** Returns `register` with jest's `each` and `skip`. */
function likeJest(register: Register, skip: Register) {
  return Object.assign((title: string, body: () => void) => register(title, body), {
    each: bind(register as never, false),
    skip,
  });
}

Object.assign(globalThis, {
  describe: likeJest(describe, describe.skip),
  test: likeJest(test, test.skip),
  it: likeJest(it, it.skip),
  beforeAll: before,
  afterAll: after,
  beforeEach,
  afterEach,
  expect,
  jest: {setTimeout() {}},
});
