import type {HubProgress} from '../../data/hub/hubOptions.ts';
import {formatBytes} from '../../training/run/formatBytes.ts';

/**
 * Returns a callback that shows the progress of a download on standard error: in one line that a terminal overwrites,
 * elsewhere in a line for each file.
 */
export function downloadLine(): (progress: HubProgress) => void {
  const started = performance.now();
  let last = '';
  return ({file, done, total}) => {
    const isDone = done === total;
    if (process.stderr.isTTY) {
      const rate = formatBytes((1000 * done) / Math.max(1, performance.now() - started));
      const share = Math.floor((100 * done) / Math.max(1, total));
      const text = `${file}: ${formatBytes(done)} of ${formatBytes(total)} (${share} %), ${rate}/s`;
      process.stderr.write(`\r\x1b[K${text}${isDone ? '\n' : ''}`);
    } else if (file !== last) {
      process.stderr.write(`downloading ${file} (${formatBytes(total)} in all)\n`);
    }
    last = file;
  };
}
