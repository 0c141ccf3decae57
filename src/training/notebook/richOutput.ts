const forDeno: unique symbol = Symbol.for('Jupyter.display');
const forNode: unique symbol = Symbol.for('nodejs.util.inspect.custom');

/** Output of a cell: HTML or SVG for a notebook, and the same in plain text, which Node prints. */
export class RichOutput {
  constructor(
    readonly mimeType: 'text/html' | 'image/svg+xml',
    readonly content: string,
    readonly text: string,
  ) {}

  /** Makes an output of HTML. Notebooks would read text between two `$` as a formula; here they do not. */
  static html(content: string, text: string): RichOutput {
    return new RichOutput('text/html', `<div class="tex2jax_ignore mathjax_ignore">${content}</div>`, text);
  }

  /** Returns what a notebook of Deno displays when this is the value of a cell. */
  [forDeno](): Record<string, string> {
    return {[this.mimeType]: this.content, 'text/plain': this.text};
  }

  /** Returns what `console.log` prints. */
  [forNode](): string {
    return this.text;
  }
}
