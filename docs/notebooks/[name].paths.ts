import {readdirSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {notebookMarkdown} from '../.vitepress/notebookMarkdown.ts';

/* Makes a page of the site from each notebook. */

const folder = fileURLToPath(new URL('.', import.meta.url));

export default {
  paths: () =>
    readdirSync(folder)
      .filter((name) => name.endsWith('.ipynb'))
      .map((name) => ({
        params: {name: name.replace('.ipynb', '')},
        content: notebookMarkdown(`${folder}/${name}`),
      })),
};
