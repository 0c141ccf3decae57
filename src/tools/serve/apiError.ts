/** An error that is reported as in OpenAI's API. */
export class ApiError extends Error {
  /**
   * @param status status of the HTTP response
   * @param param the faulty key of the request
   * @param code kind of fault, for programs
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
