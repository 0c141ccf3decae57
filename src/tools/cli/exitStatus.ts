/** Ends a command with an exit status but without a message, as after an interrupted run. */
export class ExitStatus extends Error {
  constructor(readonly status: number) {
    super(`exit status ${status}`);
  }
}
