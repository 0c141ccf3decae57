/** The end of a command line that did what it could, with a status of its own: an interrupted run. */
export class ExitStatus extends Error {
  constructor(readonly status: number) {
    super(`exit status ${status}`);
  }
}
