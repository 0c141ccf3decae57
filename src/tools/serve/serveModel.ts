import {randomUUID, timingSafeEqual} from 'node:crypto';
import {once} from 'node:events';
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http';
import {type AddressInfo, isIPv6} from 'node:net';
import type {z} from 'zod';
import type {CausalLM} from '../../../models/causalLM.ts';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {maskSecrets} from '../../../quant/maskSecrets.ts';
import {warn} from '../../../quant/warn.ts';
import {type ChatEncoder, modelChatEncoder} from '../chat/chatEncoder.ts';
import {ApiError} from './apiError.ts';
import {type CompletionRequest, parseBody, parseChatRequest, parseTextRequest} from './completionRequest.ts';
import {CompletionService} from './completionService.ts';
import {hostName, isLoopback} from './loopback.ts';
import {readJsonBody} from './readJsonBody.ts';
import {batchSizeFor, RequestBatch} from './requestBatch.ts';
import {parseResponsesRequest} from './responsesRequest.ts';
import {sendJson} from './sendJson.ts';
import {type AdapterChange, loadBody, ServedModels, unloadBody} from './servedModels.ts';

export interface ServeOptions {
  /** Address to listen on. Default `127.0.0.1`, which only this machine can reach. */
  host?: string;
  /** Port to listen on; 0 chooses a free one. Default 8000. */
  port?: number;
  /** Name of the base in requests. Default: the name of its folder. */
  modelName?: string;
  /** Key that every request must send as `Authorization: Bearer <key>`. Default none. */
  apiKey?: string;
  /** Converts messages to a prompt. Default: the model's own chat template. */
  encodeChat?: ChatEncoder;
  /** Largest size of a request's body in bytes. Default 4 000 000. */
  maxBodyBytes?: number;
  /**
   * Largest number of requests that are answered together, each with its own adapter. Default 8; 1 for models whose
   * rotary positions depend on the length of the longest request.
   */
  maxBatchSize?: number;
  /**
   * Whether requests may load adapters from paths and unload them: `/v1/load_lora_adapter` and
   * `/v1/unload_lora_adapter`, as in vLLM. Default false.
   */
  allowAdapterChanges?: boolean;
  /** Milliseconds in which the whole request must arrive. Default 60 000. */
  requestTimeout?: number;
  /** Milliseconds after which a client that does not read its answer is disconnected. Default 30 000. */
  stallTimeout?: number;
  /** Called after each completion, and after each request that failed. */
  onRequest?: (report: RequestReport) => void;
}
const SERVE_OPTIONS = {
  host: true,
  port: true,
  modelName: true,
  apiKey: true,
  encodeChat: true,
  maxBodyBytes: true,
  maxBatchSize: true,
  allowAdapterChanges: true,
  requestTimeout: true,
  stallTimeout: true,
  onRequest: true,
} satisfies OptionNames<ServeOptions>;

export interface RequestReport {
  method: string;
  path: string;
  /** Status of the response; 499 if the client closed the connection. */
  status: number;
  /** Message of the error, if the request failed. */
  error?: string;
  promptTokens?: number;
  completionTokens?: number;
  /** Seconds from the request to its end, including the wait for earlier ones. */
  seconds: number;
}

export interface ModelServer {
  /** Base URL for clients, such as `http://127.0.0.1:8000/v1`. */
  url: string;
  port: number;
  /** Names that requests can use as `model`: the base, then each adapter. */
  models: string[];
  /** Stops the current answer, refuses further requests, and frees the port. The model is not disposed. */
  close(): Promise<void>;
}

/** Milliseconds for a request's headers, and between two checks for requests that take too long. */
const [HEADERS_TIMEOUT, CHECKING_INTERVAL] = [20_000, 1_000];
/** What reads the bodies of requests to be answered, by path. */
const READERS: Record<string, (body: unknown, defaults: GenerationConfig) => CompletionRequest> = {
  '/v1/chat/completions': parseChatRequest,
  '/v1/completions': parseTextRequest,
  '/v1/responses': parseResponsesRequest,
};
/** The bodies of requests that change adapters, by path. */
const CHANGES: Record<string, z.ZodType<AdapterChange>> = {
  '/v1/load_lora_adapter': loadBody,
  '/v1/unload_lora_adapter': unloadBody,
};
/** The status that nginx logs if the client closed the connection. */
const CLIENT_CLOSED = 499;

/**
 * Serves a model through OpenAI's HTTP API: `/v1/chat/completions`, `/v1/responses` and `/v1/completions`, whole or as
 * a stream, and `/v1/models`. Requests start in the order in which they arrive, and up to `maxBatchSize` of them are
 * answered together. If the connection drops, the answer stops at the next token.
 *
 * Requests choose the base or a loaded adapter by its name; without a name, the newest adapter answers. On a loopback
 * address, requests must name a loopback host and have a JSON content type, so that no web page can use the model from
 * a browser.
 *
 * @throws TfjsLoraError `UNSUPPORTED` when the model has no tokenizer; the system's error when the port is in use
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {serveModel} from 'tfjs-lora/serve';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * const server = await serveModel(model, {port: 8000});
 * console.log(server.url); // OpenAI's API
 * await server.close();
 * ```
 */
export async function serveModel(model: CausalLM, options: ServeOptions = {}): Promise<ModelServer> {
  assertKnownOptions('serveModel', options, SERVE_OPTIONS);
  const service = new ModelService(model, options);
  const {host = '127.0.0.1', port = 8000, requestTimeout = 60_000, apiKey} = options;
  const limits = {
    requestTimeout,
    headersTimeout: Math.min(HEADERS_TIMEOUT, requestTimeout),
    connectionsCheckingInterval: Math.min(CHECKING_INTERVAL, requestTimeout),
  };
  const server = createServer(limits, (request, response) => void service.handle(request, response));
  server.listen(port, host);
  await once(server, 'listening'); // rejects on 'error'
  const {port: listening, address} = server.address() as AddressInfo;
  service.isLoopback = isLoopback(address);
  if (!service.isLoopback && apiKey === undefined) {
    warn(
      `serve --host ${host}: everyone who can reach this machine can use the model, because there is no key. Set --api-key or ` +
        'TFJS_LORA_API_KEY, or listen on 127.0.0.1.',
    );
  }
  return {
    url: `http://${isIPv6(host) ? `[${host}]` : host}:${listening}/v1`,
    port: listening,
    models: service.models.names,
    close: () => service.close(server),
  };
}

/** Handles the HTTP requests of a server. */
class ModelService {
  readonly models: ServedModels;
  private readonly batch: RequestBatch;
  private readonly completions: CompletionService;
  private readonly running = new Set<AbortController>();
  /** Whether only this machine can reach the address. It is set before the first request, when the address is known. */
  isLoopback = true;

  constructor(
    private readonly model: CausalLM,
    private readonly options: ServeOptions,
  ) {
    if (model.tokenizer === undefined) modelChatEncoder(model); // throws an error, because nothing could be served
    this.batch = new RequestBatch(model, batchSizeFor(model, options.maxBatchSize));
    this.models = new ServedModels(model, options.modelName);
    this.completions = new CompletionService(model, this.models, this.batch, options);
  }

  /** Answers one request and never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const started = performance.now();
    const controller = new AbortController();
    this.running.add(controller);
    response.once('close', () => {
      if (!response.writableFinished) controller.abort();
    });
    const path = (request.url ?? '/').split('?')[0];
    response.setHeader('x-request-id', `req_${randomUUID().replaceAll('-', '')}`);
    const report: RequestReport = {method: request.method ?? '', path, status: 200, seconds: 0};
    try {
      this.assertAllowed(request);
      await this.route(request, response, report, controller.signal);
    } catch (error) {
      this.fail(error, response, report, controller.signal);
    } finally {
      this.running.delete(controller);
      report.seconds = (performance.now() - started) / 1000;
      if (report.promptTokens !== undefined || report.error !== undefined) this.options.onRequest?.(report);
    }
  }

  async close(server: Server): Promise<void> {
    const closed = new Promise((done) => server.close(done));
    for (const controller of this.running) controller.abort();
    await this.completions.close();
    await this.batch.idle();
    server.closeAllConnections();
    await closed;
  }

  private async route(
    request: IncomingMessage,
    response: ServerResponse,
    report: RequestReport,
    signal: AbortSignal,
  ): Promise<void> {
    const {path} = report;
    const {model, models, batch} = this;
    const {allowAdapterChanges, maxBodyBytes} = this.options;
    const [, named] = /^\/v1\/models\/(.+)$/.exec(path) ?? [];
    const isCompletion = Object.hasOwn(READERS, path);
    const isChange = allowAdapterChanges === true && Object.hasOwn(CHANGES, path);
    if (!isCompletion && !isChange && path !== '/v1/models' && path !== '/health' && named === undefined) {
      const paths = [...Object.keys(READERS), '/v1/models', '/health'].join(', ');
      throw new ApiError(404, `${request.method} ${path}: expected one of ${paths}, got an unknown path.`);
    }
    const method = isCompletion || isChange ? 'POST' : 'GET';
    if (request.method !== method) {
      response.setHeader('Allow', method);
      throw new ApiError(405, `${path}: expected ${method}, got ${request.method}.`);
    }
    if (isCompletion) {
      const body = await readJsonBody(request, maxBodyBytes);
      const wanted = READERS[path](body, model.generationConfig);
      await this.completions.answer(wanted, response, report, signal);
      return;
    }
    if (isChange) {
      const body = parseBody(CHANGES[path], await readJsonBody(request, maxBodyBytes), {});
      sendJson(response, 200, {message: await batch.change(() => models.change(body))});
      return;
    }
    if (path === '/health') sendJson(response, 200, {status: 'ok'});
    else if (named !== undefined) sendJson(response, 200, models.describe(models.resolve(decoded(named))));
    else sendJson(response, 200, {object: 'list', data: models.names.map((id) => models.describe(id))});
  }

  private assertAllowed(request: IncomingMessage): void {
    const {host = '', authorization = ''} = request.headers;
    const name = hostName(host);
    const {host: own = '127.0.0.1'} = this.options;
    if (this.isLoopback && !isLoopback(name) && name !== 'localhost' && name !== own.toLowerCase()) {
      throw new ApiError(
        403,
        `Host ${host}: expected localhost or a loopback address such as 127.0.0.1, because this server only listens on the ` +
          'loopback address.',
      );
    }
    const {apiKey} = this.options;
    if (apiKey === undefined || request.url === '/health') return;
    const [given, expected] = [authorization, `Bearer ${apiKey}`].map((text) => Buffer.from(text));
    if (given.length === expected.length && timingSafeEqual(given, expected)) return;
    throw new ApiError(
      401,
      'Authorization: expected "Bearer" and the key of this server, got something else.',
      null,
      'invalid_api_key',
    );
  }

  /** Sends an error in OpenAI's format, within the stream if one has started. */
  private fail(error: unknown, response: ServerResponse, report: RequestReport, signal: AbortSignal): void {
    if (signal.aborted && !(error instanceof ApiError)) {
      report.status = CLIENT_CLOSED;
      report.error = 'the connection was closed';
      response.destroy();
      return;
    }
    const apiError = apiErrorOf(error);
    report.status = apiError.status;
    report.error = maskSecrets(error instanceof Error ? error.message : String(error));
    if (response.headersSent) {
      response.end(`data: ${JSON.stringify(apiError)}\n\n`);
      return;
    }
    if (apiError.status === 413) response.setHeader('Connection', 'close'); // the rest of the body is never read
    if (apiError.status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
    sendJson(response, apiError.status, apiError);
  }
}

function apiErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof TfjsLoraError)) return new ApiError(500, 'Internal server error.');
  if (error.code !== 'UNKNOWN_ADAPTER') return new ApiError(500, error.message);
  return new ApiError(404, error.message, 'model', 'model_not_found'); // unloaded while the request waited
}

function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // no model has such a name
  }
}
