import * as tf from '@tensorflow/tfjs';
import {KeyValueCache} from '../../../layers/keyValueCache.ts';
import {setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import type {TokenChain} from '../../../layers/ops/chainStarter.ts';
import {RotaryEmbedding} from '../../../layers/rotaryEmbedding.ts';
import {type DecodedModel, Decoder} from '../../../models/generation/decoder.ts';

const VOCABULARY = 23;
/** Returns the token that a model of the test chooses after another in that column. */
const after = (token: number, column: number) => (5 * token + column) % VOCABULARY;

/** A cache that counts positions, and makes room for four at a time. */
class CountingCache extends KeyValueCache {
  count = 0;
  room = 0;
  override get length() {
    return this.count;
  }
  override get capacity() {
    return this.room;
  }
  override advance() {
    this.count++;
  }
}

class Model implements DecodedModel {
  readonly rotary = new RotaryEmbedding({headDim: 4});
  readonly events: string[] = [];
  passes = 0;
  open = 0;

  forward(inputIds: tf.Tensor2D, {cache}: Parameters<DecodedModel['forward']>[1]): tf.Tensor3D {
    this.passes++;
    const counting = cache as CountingCache;
    const [batch, length] = inputIds.shape;
    if (counting.count === counting.room) counting.room += length === 1 ? 4 : length;
    counting.count += length;
    const ids = inputIds.arraySync();
    const next = ids.map((row) => row.map((id, t) => after(id, counting.count - length + t)));
    return tf.oneHot(next, VOCABULARY).toFloat().reshape([batch, length, VOCABULARY]);
  }

  logitsOf = (hidden: tf.Tensor) => hidden;

  startChain: DecodedModel['startChain'] = (cache, {cos, sin}, mask) => {
    this.open++;
    this.events.push(
      `start ${cos.shape} ${sin.shape} ${mask?.shape ?? 'no mask'} at ${cos.dataSync()[0].toFixed(4)}`,
    );
    let last: number[] = [];
    const unread: number[][] = [];
    const chain: TokenChain = {
      run: (past, positions, tokens) => {
        expect(past).toBeLessThan(cache.capacity);
        last = (tokens ?? last).map((token) => after(token, past));
        unread.push(last);
        this.events.push(`run ${past} at ${positions}${tokens ? ` of ${tokens}` : ''}`);
      },
      read: () => {
        this.events.push('read');
        return Int32Array.from(unread.shift() as number[]);
      },
      dispose: () => this.open--,
    };
    return chain;
  };
}

/** Rows with their greedy tokens. */
async function generate(model: Model, prompts: number[][], count: number): Promise<number[][]> {
  const cache = new CountingCache();
  const decoder = new Decoder(model, cache);
  const ids = prompts.map((prompt) => [...prompt]);
  const width = Math.max(...prompts.map(({length}) => length));
  const paddings = prompts.map(({length}) => width - length);
  for (let i = 0; i < count; i++) {
    const batch = {ids, paddings, newPositions: i === 0 ? width : 1};
    const next = await decoder.next(batch, {isGreedy: true, mayContinue: i + 1 < count});
    for (const [row, id] of next.entries()) ids[row].push(id);
  }
  decoder.forget();
  cache.dispose();
  return ids;
}

describe('a decoder with chains of passes', () => {
  const PROMPTS = [
    [3, 1, 4, 1],
    [5, 9],
  ];
  beforeAll(() => tf.setBackend('cpu'));
  afterEach(() => setBackendTraits(tf.backend(), {startChain: undefined}));
  const allowChains = () => setBackendTraits(tf.backend(), {startChain: () => undefined});

  test('chooses the tokens of single passes, and frees what it makes', async () => {
    const plain = new Model();
    const expected = await generate(plain, PROMPTS, 14);
    expect(plain.events).toEqual([]);
    allowChains();
    const {numTensors} = tf.memory();
    const chained = new Model();
    expect(await generate(chained, PROMPTS, 14)).toEqual(expected);
    expect(chained.passes).toBeLessThan(plain.passes / 2);
    expect(chained.open).toBe(0);
    expect(tf.memory().numTensors).toBe(numTensors);
  });

  test('begins each pass before it reads the previous one, and none beyond the room or the last token', async () => {
    allowChains();
    const model = new Model();
    const ids = (await generate(model, PROMPTS, 10)).map((row) => row.slice(-9));
    // The prompt has four columns, and one pass makes room. Positions are table rows from the shortest row's on.
    expect(model.events.slice(0, 8)).toEqual([
      `start 1,1,5,2 1,1,5,2 2,8 at ${Math.cos(3).toFixed(4)}`,
      `run 5 at 2,0 of ${ids.map((row) => row[0])}`,
      'run 6 at 3,1',
      'read',
      'run 7 at 4,2',
      'read',
      'read',
      expect.stringMatching(/^start/),
    ]);
    expect(model.events.filter((event) => event.startsWith('run'))).toHaveLength(6);
    expect(model.events.filter((event) => event === 'read')).toHaveLength(6);
  });

  test('asks only once for a chain that does not exist', async () => {
    allowChains();
    const model = new Model();
    let asked = 0;
    model.startChain = () => {
      asked++;
      return undefined;
    };
    const plain = await generate(new Model(), PROMPTS.slice(1), 8);
    expect(await generate(model, PROMPTS.slice(1), 8)).toEqual(plain);
    expect(asked).toBe(1);
  });
});
