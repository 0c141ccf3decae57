/** Shows how much of a model is loaded, on a line of a terminal's standard error that goes away. */
export function loadingLine(share: number): void {
  if (!process.stderr.isTTY) return;
  process.stderr.write(share < 1 ? `\r\x1b[Kloading the model: ${Math.floor(100 * share)} %` : '\r\x1b[K');
}
