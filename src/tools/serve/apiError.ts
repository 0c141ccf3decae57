/** An error as OpenAI's API tells it. */
export class ApiError extends Error {
  /**
   * @param status of the HTTP response
   * @param param the key of the request that is at fault
   * @param code what kind of fault, for programs
   */
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
    this.name = 'ApiError';
  }

  toJSON(): {error: Record<string, string | null>} {
    const type = this.status >= 500 ? 'server_error' : 'invalid_request_error';
    return {error: {message: this.message, type, param: this.param, code: this.code}};
  }
}
