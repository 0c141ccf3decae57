/** Shows the loaded share of a model on a line of the terminal's standard error, and clears the line at the end. */
export function loadingLine(share: number): void {
  if (!process.stderr.isTTY) return;
  process.stderr.write(share < 1 ? `\r\x1b[Kloading the model: ${Math.floor(100 * share)} %` : '\r\x1b[K');
}
