/** A shell's status of a program whose reader has gone: 128 and the number of SIGPIPE. */
const READER_GONE = 141;

/**
 * Ends the process without a word once nobody reads what it prints any more, as after `| head`. A command that saves or
 * closes something at its end is asked to by SIGTERM instead; what it prints on the way is lost.
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
