import {once} from 'node:events';
import type {ServerResponse} from 'node:http';

/** Bytes that may wait for a client before the answer waits for it too: those of some thousand tokens. */
const MAX_WAITING = 1 << 20;

/** Server-sent events. A client that reads none of them for a while is cut off: others wait for their turn. */
export class EventStream {
  /** @param stallTimeout milliseconds */
  constructor(
    private readonly response: ServerResponse,
    private readonly signal: AbortSignal,
    private readonly stallTimeout: number,
  ) {}

  async send(data: object): Promise<void> {
    const {response, signal} = this;
    signal.throwIfAborted();
    if (response.write(`data: ${JSON.stringify(data)}\n\n`) || response.writableLength < MAX_WAITING) return;
    cutOffIfStalled(response, this.stallTimeout);
    await once(response, 'drain', {signal});
    response.setTimeout(0);
  }

  end(): void {
    cutOffIfStalled(this.response, this.stallTimeout);
    this.response.end('data: [DONE]\n\n');
  }
}

/** Closes the connection when the client takes nothing of what was sent for so many milliseconds. */
export function cutOffIfStalled(response: ServerResponse, timeout: number): void {
  response.setTimeout(timeout); // whatever the client takes puts it off; nobody listens, so Node closes the socket
}
