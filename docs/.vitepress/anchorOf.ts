/** Returns the anchor of a heading, as GitHub spells it in addresses. The site uses the same ones. */
export function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}_ -]/gu, '')
    .replaceAll(' ', '-');
}
