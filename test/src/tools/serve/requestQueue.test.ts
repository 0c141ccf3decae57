import {RequestQueue} from '../../../../src/tools/serve/requestQueue.ts';

const {signal} = new AbortController();
const turns = async (count: number) => {
  for (let turn = 0; turn < count; turn++) await null;
};

test('tasks never overlap, and run in their order, even if earlier ones fail', async () => {
  const queue = new RequestQueue();
  const events: string[] = [];
  const task =
    (name: string, length: number, fails = false) =>
    async () => {
      events.push(`${name} begins`);
      await turns(length);
      events.push(`${name} ends`);
      if (fails) throw new Error(name);
      return name;
    };
  const results = [
    queue.run(task('a', 9), signal),
    queue.run(task('b', 1, true), signal),
    queue.run(task('c', 3), signal),
  ];
  expect(await Promise.allSettled(results)).toMatchObject([
    {value: 'a'},
    {reason: {message: 'b'}},
    {value: 'c'},
  ]);
  expect(events).toEqual(['a', 'b', 'c'].flatMap((name) => [`${name} begins`, `${name} ends`]));
});

test('a task that is aborted while it waits never starts', async () => {
  const queue = new RequestQueue();
  const controller = new AbortController();
  const first = queue.run(() => turns(5), signal);
  const task = jest.fn(async () => {});
  const second = queue.run(task, controller.signal);
  controller.abort();
  await first;
  await expect(second).rejects.toThrow('aborted');
  expect(task).not.toHaveBeenCalled();
});

test('idle waits for all tasks, including those added meanwhile', async () => {
  const queue = new RequestQueue();
  const done: string[] = [];
  void queue.run(async () => {
    await turns(3);
    void queue.run(async () => {
      await turns(3);
      done.push('late');
    }, signal);
    done.push('first');
  }, signal);
  await queue.idle();
  expect(done).toEqual(['first', 'late']);
});
