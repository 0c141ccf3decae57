import {readFileSync} from 'node:fs';

interface Output {
  text?: string[];
  data?: Record<string, string | string[]>;
}
interface Cell {
  cell_type: 'markdown' | 'code';
  source: string[];
  outputs?: Output[];
}

/** Returns a notebook as a page: its texts, its code, and the outputs that the file has. */
export function notebookMarkdown(path: string): string {
  const {cells}: {cells: Cell[]} = JSON.parse(readFileSync(path, 'utf8'));
  return cells
    .flatMap(({cell_type, source, outputs = []}) =>
      cell_type === 'markdown' ? [textOf(source)] : [fenced('ts', textOf(source)), ...outputs.map(outputOf)],
    )
    .join('\n\n');
}

const textOf = (lines: string | string[]): string => [lines].flat().join('');

const fenced = (language: string, text: string): string => `\`\`\`\`${language}\n${text}\n\`\`\`\``;

/** Returns the richest form of an output that a page can show. */
function outputOf({text, data = {}}: Output): string {
  const form = ['image/svg+xml', 'image/png', 'text/markdown', 'text/html'].find((type) => type in data);
  const content = textOf((form ? data[form] : (text ?? data['text/plain'])) ?? '');
  switch (form) {
    case 'image/svg+xml':
      return `<img alt="" src="data:image/svg+xml,${encodeURIComponent(content)}">`;
    case 'image/png':
      return `<img alt="" src="data:image/png;base64,${content.replaceAll('\n', '')}">`;
    case 'text/markdown':
      return content;
    case 'text/html': // without empty lines, which would end it
      return `<div v-pre>${content.replace(/\n\s*/g, ' ')}</div>`;
    default:
      return fenced('text', content.replace(/^.*\r(?!$)/gm, '').trimEnd()); // a progress line shows its last state
  }
}
