/** Exit status of a run that a signal stopped. It is the shell's status for SIGINT, whatever the signal was. */
export const STOPPED = 130;

/** Ends a command with an exit status but without a message, as after an interrupted run. */
export class ExitStatus extends Error {
  constructor(readonly status: number) {
    super(`exit status ${status}`);
  }
}
