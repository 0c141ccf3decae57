import {readFileSync} from 'node:fs';
import {join} from 'node:path';

const config: {forbidden: {comment: string}[]} = require('../../.dependency-cruiser.cjs');
const contributing = readFileSync(join(__dirname, '../../CONTRIBUTING.md'), 'utf8');

/** `folder/room → the rooms that it may import`, as CONTRIBUTING.md draws it. */
function drawnRooms(): Map<string, string[]> {
  const drawings = contributing.matchAll(/^`(\S+)`:\n\n```mermaid\nflowchart TD\n(.*?)^```$/gms);
  return new Map(
    [...drawings].flatMap(([, folder, lines]) =>
      [...lines.matchAll(/^ {2}(\w+)(?: --> (.*))?$/gm)].map(([, room, below]): [string, string[]] => [
        `${folder}/${room}`,
        below?.split(' & ') ?? [],
      ]),
    ),
  );
}

/** Reads the same from the comments of the lint rules. */
function enforcedRooms(): Map<string, string[]> {
  return new Map(
    config.forbidden.flatMap(({comment}) => {
      const [, room, below] = /^(\S+) imports from its neighbours only (.*)\.$/.exec(comment) ?? [];
      return room ? [[room, below === 'none' ? [] : below.split(', ')]] : [];
    }),
  );
}

test('CONTRIBUTING.md draws the order of rooms that lint enforces', () => {
  expect(enforcedRooms().size).toBeGreaterThan(20);
  expect(drawnRooms()).toEqual(enforcedRooms());
});
