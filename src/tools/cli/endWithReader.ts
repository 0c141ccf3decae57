/** The status that a shell reports for a program whose reader closed the pipe: 128 plus the number of SIGPIPE. */
const READER_GONE = 141;

/**
 * Ends the process quietly when the reader of its output closes the pipe, as `| head` does. A command that saves or
 * closes something at its end gets a SIGTERM instead, and its further output is lost.
 */
export function endWithReader(): void {
  let isGone = false;
  const listener = (error: NodeJS.ErrnoException) => {
    const savesAtEnd = process.listenerCount('SIGTERM') > 0;
    if (error.code !== 'EPIPE' && !savesAtEnd) throw error;
    if (error.code !== 'EPIPE' || isGone) return;
    isGone = true;
    if (!savesAtEnd) process.exit(READER_GONE);
    process.emit('SIGTERM', 'SIGTERM');
  };
  for (const stream of [process.stdout, process.stderr]) stream.on('error', listener);
}
