import {describeNotebook} from './describeNotebook.ts';

const onePass = (source: string) => source.replace(/const passes = \d+/, 'const passes = 1');

describeNotebook('own-data-to-chat', onePass, ({text, html}) => {
  const [, right] = /^(\d) of 8 new questions have the right answer$/m.exec(text) ?? [];
  expect(Number(right)).toBeGreaterThanOrEqual(4);
  expect(text).toContain('6 messages in the history');
  expect(html.match(/<mark [^>]*>&lt;\|eot_id\|&gt;<\/mark>/g)).toHaveLength(2); // the ends of both answers are learned
});
