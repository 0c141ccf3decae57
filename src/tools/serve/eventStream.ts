import {once} from 'node:events';
import type {ServerResponse} from 'node:http';

/** Number of bytes (a few thousand tokens) that may wait for a client before the answer itself waits. */
const MAX_WAITING = 1 << 20;

/** Sends server-sent events. A client that stops reading them is disconnected, because other requests are waiting. */
export class EventStream {
  /** @param stallTimeout milliseconds without reading until the client is disconnected */
  constructor(
    private readonly response: ServerResponse,
    private readonly signal: AbortSignal,
    private readonly stallTimeout: number,
  ) {}

  /** Sends an event, under the name that its `type` gives it, if any. */
  async send(data: {type?: unknown}): Promise<void> {
    const {response, signal} = this;
    signal.throwIfAborted();
    const name = typeof data.type === 'string' ? `event: ${data.type}\n` : '';
    const text = `${name}data: ${JSON.stringify(data)}\n\n`;
    if (response.write(text) || response.writableLength < MAX_WAITING) return;
    cutOffIfStalled(response, this.stallTimeout);
    await once(response, 'drain', {signal});
    response.setTimeout(0);
  }

  /** @param hasDone whether `[DONE]` comes last */
  end(hasDone: boolean): void {
    cutOffIfStalled(this.response, this.stallTimeout);
    this.response.end(hasDone ? 'data: [DONE]\n\n' : '');
  }
}

/** Closes the connection if the client reads nothing for `timeout` milliseconds. */
export function cutOffIfStalled(response: ServerResponse, timeout: number): void {
  response.setTimeout(timeout); // restarts with every read; without a listener, Node closes the socket
}
