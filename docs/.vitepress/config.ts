import {existsSync, readdirSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {fileURLToPath} from 'node:url';
import {type DefaultTheme, defineConfig, type MarkdownRenderer} from 'vitepress';
import tsconfig from '../../tsconfig.json' with {type: 'json'};
import {anchorOf} from './anchorOf.ts';

/*
 * The site: README.md as its first page, the pages and notebooks of docs/, typedoc's pages in docs/api, and the READMEs of
 * folders.
 */

const root = fileURLToPath(new URL('../..', import.meta.url));
const OUTSIDE = ['CONTRIBUTING.md']; // its diagrams need GitHub

/** Returns the path that a page of the repository has in the site. */
function placeOf(page: string): string {
  if (page === 'README.md') return 'index.md';
  if (page === 'docs/README.md') return 'guides.md';
  return page.replace(/^docs\//, '').replace(/(^|\/)README\.md$/, '$1index.md');
}

/**
 * Turns links between files of the repository into links of the site. A link to a file that the site does not have, such
 * as a source file, becomes plain text with the file's path as its title.
 */
function linkPages(markdown: MarkdownRenderer): void {
  markdown.core.ruler.push('link-pages', ({tokens, env}) => {
    const folder = dirname(relative(root, env.realPath ?? env.path));
    let isPlain = false;
    for (const token of tokens.flatMap(({children}) => children ?? [])) {
      if (token.type === 'link_close' && isPlain) {
        token.tag = 'span';
        isPlain = false;
      }
      const href = token.type === 'link_open' ? token.attrGet('href') : null;
      const [path, anchor] = href?.split('#') ?? [];
      if (!path || path.startsWith('/') || /^[a-z]+:/.test(path)) continue;
      const file = join(folder, path).replace(/\/$/, '');
      const page = existsSync(join(root, file, 'README.md'))
        ? join(file, 'README.md')
        : file.replace(/\.ipynb$/, '.md');
      if (page.endsWith('.md') && !OUTSIDE.includes(page)) {
        token.attrSet('href', `/${placeOf(page)}${anchor ? `#${anchor}` : ''}`);
      } else {
        token.tag = 'span';
        token.attrs = [['title', file]];
        isPlain = true;
      }
    }
  });
}

/** Makes a group of the sidebar from its title and the links below it. */
function group(text: string, links: Record<string, string>, collapsed?: boolean): DefaultTheme.SidebarItem {
  return {text, collapsed, items: Object.entries(links).map(([name, link]) => ({text: name, link}))};
}

const subpaths = Object.keys(tsconfig.compilerOptions.paths);
const notebooks = readdirSync(join(root, 'docs/notebooks')).filter((name) => name.endsWith('.ipynb'));
const titleOf = (name: string) => name.replace('.ipynb', '').replaceAll('-', ' ');

export default defineConfig({
  title: 'tfjs-lora',
  description: 'LoRA and QLoRA fine-tuning of Llama 3.x on TensorFlow.js, in TypeScript',
  srcDir: '..',
  srcExclude: ['out/**', 'test/!(parity)/**', ...OUTSIDE],
  rewrites: placeOf,
  cleanUrls: true,
  head: [['link', {rel: 'icon', href: 'data:,'}]],
  markdown: {anchor: {slugify: anchorOf}, toc: {slugify: anchorOf}, config: linkPages},
  vite: {build: {chunkSizeWarningLimit: 5000}},
  themeConfig: {
    search: {provider: 'local'},
    outline: [2, 3],
    nav: [
      {text: 'Start', link: '/getting-started'},
      {text: 'Guides', link: '/guides'},
      {text: 'API', link: '/api/'},
    ],
    sidebar: {
      '/': [
        group('Start', {
          Overview: '/',
          'Getting started': '/getting-started',
          'The Llama 3.2 experiment': '/experiment',
          Examples: '/examples/',
          Questions: '/faq',
          Troubleshooting: '/troubleshooting',
        }),
        group(
          'Notebooks',
          {
            Overview: '/notebooks',
            ...Object.fromEntries(
              notebooks.map((name) => [titleOf(name), `/notebooks/${name.replace('.ipynb', '')}`]),
            ),
          },
          true,
        ),
        group('Fine-tuning', {
          LoRA: '/lora',
          QLoRA: '/qlora',
          'Model families': '/models',
          Choosing: '/choosing',
          Data: '/data',
          Training: '/training',
          'Learning from rewards': '/rewards',
          Recipes: '/recipes',
          'SmolLM2 from GGUF and back': '/smollm2',
          Evaluation: '/evaluation',
          'Chat and serving': '/serving',
          'llama.cpp and Ollama': '/llama-cpp',
          Formats: '/formats',
        }),
        group('Machines', {
          Backends: '/backends',
          'Native TensorFlow': '/tensorflow',
          'Several cards': '/several-cards',
          'In the browser': '/browser',
          Performance: '/performance',
        }),
        group('Going further', {
          Extending: '/extending',
          'How it works': '/how-it-works',
          'API reference': '/api/',
          'What changed': '/CHANGELOG',
        }),
        group(
          'Inside the code',
          {
            'quant: number formats': '/quant/',
            'layers: layers and ops': '/layers/',
            'models: whole models': '/models/',
            'src: fine-tuning': '/src/',
          },
          true,
        ),
      ],
      '/api/': [group('API reference', Object.fromEntries(subpaths.map((name) => [name, `/api/${name}/`])))],
    },
  },
});
