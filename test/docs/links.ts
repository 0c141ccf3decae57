import {existsSync, readFileSync} from 'node:fs';
import {dirname, join, normalize} from 'node:path';
import {anchorOf} from '../../docs/.vitepress/anchorOf.ts';

/** A link from a Markdown page to a file of the repository. */
export interface RelativeLink {
  /** The link as the page writes it. */
  link: string;
  /** The file or folder that it points to, from the repository's root. */
  path: string;
  /** The heading that it points to, as GitHub spells it in addresses. */
  anchor?: string;
}

/**
 * Finds every relative link of a Markdown page: inline links, images and reference definitions outside code.
 *
 * @param root the repository's root
 * @param page the page, from the root
 */
export function relativeLinks(root: string, page: string): RelativeLink[] {
  const text = withoutCode(readFileSync(join(root, page), 'utf8'));
  const links = [...text.matchAll(/\]\(([^()\s]+)\)|^\[[^\]]+\]:\s*(\S+)$/gm)].map(
    ([, inline, defined]) => inline ?? defined,
  );
  return links
    .filter((link) => !/^[a-z][a-z\d+.-]*:/i.test(link))
    .map((link) => {
      const [path, anchor] = link.split('#');
      return {link, path: path ? normalize(join(dirname(page), path)) : page, anchor};
    });
}

/** Finds the links of a page that point to a missing file, or to a missing heading of a Markdown page. */
export function deadLinks(root: string, page: string): string[] {
  return relativeLinks(root, page)
    .filter(({path, anchor}) => {
      if (!existsSync(join(root, path))) return true;
      return anchor !== undefined && path.endsWith('.md') && !anchorsOf(join(root, path)).has(anchor);
    })
    .map(({link}) => link);
}

/** Returns the anchors that GitHub gives to the headings of a page. */
function anchorsOf(file: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading] of withoutBlocks(readFileSync(file, 'utf8')).matchAll(/^#{1,6} (.+)$/gm)) {
    const slug = anchorOf(heading);
    let anchor = slug;
    for (let repeat = 1; anchors.has(anchor); repeat++) anchor = `${slug}-${repeat}`;
    anchors.add(anchor);
  }
  return anchors;
}

function withoutBlocks(text: string): string {
  return text.replace(/^(```+).*?^\1$/gms, '');
}

function withoutCode(text: string): string {
  return withoutBlocks(text).replace(/`[^`\n]+`/g, '');
}
