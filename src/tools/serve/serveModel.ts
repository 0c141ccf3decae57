import {randomUUID, timingSafeEqual} from 'node:crypto';
import {once} from 'node:events';
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http';
import {type AddressInfo, isIPv6} from 'node:net';
import {basename, resolve} from 'node:path';
import {z} from 'zod';
import type {CausalLM} from '../../../models/causalLM.ts';
import type {GenerativeModel} from '../../../models/generation/generateOptions.ts';
import {TokenConstraint} from '../../../models/generation/json/tokenConstraint.ts';
import type {GenerationConfig} from '../../../models/generationConfig.ts';
import {BASE} from '../../../models/peft/rowAdapters.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {maskSecrets} from '../../../quant/maskSecrets.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import {type ChatEncoder, modelChatEncoder} from '../chat/chatEncoder.ts';
import {ApiError} from './apiError.ts';
import {type CompletionRequest, parseBody, parseChatRequest, parseTextRequest} from './completionRequest.ts';
import {
  type AnswerShapes,
  CompletionResponse,
  type FinishReason,
  type TokenLogprob,
  usageOf,
} from './completionResponse.ts';
import {cutOffIfStalled, EventStream} from './eventStream.ts';
import {hostName, isLoopback} from './loopback.ts';
import {contextExceeded, PromptEncoder} from './promptEncoder.ts';
import {RequestBatch} from './requestBatch.ts';
import {parseResponsesRequest} from './responsesRequest.ts';
import {ResponsesResponse} from './responsesResponse.ts';
import {tokenLogprobs} from './tokenLogprobs.ts';

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
interface AdapterChange {
  lora_name: string;
  lora_path?: string;
  load_inplace?: boolean;
}

/** The bodies of requests that change adapters, by path. */
const CHANGES: Record<string, z.ZodType<AdapterChange>> = {
  '/v1/load_lora_adapter': z.object({
    lora_name: z.string().min(1),
    lora_path: z.string().min(1),
    load_inplace: z.boolean().optional(),
  }),
  '/v1/unload_lora_adapter': z.object({lora_name: z.string().min(1)}),
};
/** The status that nginx logs if the client closed the connection. */
const CLIENT_CLOSED = 499;

/**
 * Serves a model through OpenAI's HTTP API: `/v1/chat/completions`, `/v1/responses` and `/v1/completions`, whole or as a stream, and
 * `/v1/models`. Requests begin in their order and are answered together, up to `maxBatchSize` of them; if the connection
 * drops, the answer stops at the next token.
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
    models: service.models,
    close: () => service.close(server),
  };
}

class ModelService {
  readonly models: string[];
  private readonly batch: RequestBatch;
  private readonly running = new Set<AbortController>();
  private readonly started = Math.floor(Date.now() / 1000);
  private readonly prompts: PromptEncoder;
  /** Whether the base contains its adapters, which then answer for it. */
  private readonly isMerged: boolean;
  /** Whether only this machine can reach the address. It is set before the first request, when the address is known. */
  isLoopback = true;

  constructor(
    private readonly model: CausalLM,
    private readonly options: ServeOptions,
  ) {
    const {modelName = basename(resolve(model.nameOrPath || 'model'))} = options;
    const {tokenizer, config} = model;
    if (tokenizer === undefined) modelChatEncoder(model); // throws an error, because nothing could be served
    this.prompts = new PromptEncoder(tokenizer as Tokenizer, config.maxPositionEmbeddings);
    this.batch = new RequestBatch(model, batchSizeFor(model, options.maxBatchSize));
    this.isMerged = [...model.layersWithAdapters().values()].some((layer) => layer.isMerged);
    this.models = [modelName, ...(this.isMerged ? [] : model.adapterNames)];
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
    await this.prompts.close();
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
    const [, named] = /^\/v1\/models\/(.+)$/.exec(path) ?? [];
    const isCompletion = Object.hasOwn(READERS, path);
    const isChange = this.options.allowAdapterChanges === true && Object.hasOwn(CHANGES, path);
    if (!isCompletion && !isChange && path !== '/v1/models' && path !== '/health' && named === undefined) {
      throw new ApiError(404, `${request.method} ${path}: expected a path of this API, got an unknown one.`);
    }
    const method = isCompletion || isChange ? 'POST' : 'GET';
    if (request.method !== method) {
      response.setHeader('Allow', method);
      throw new ApiError(405, `${path}: expected ${method}, got ${request.method}.`);
    }
    if (isCompletion) {
      const body = await this.readBody(request);
      const wanted = READERS[path](body, this.model.generationConfig);
      await this.complete(wanted, response, report, signal);
      return;
    }
    if (isChange) {
      const body = parseBody(CHANGES[path], await this.readBody(request), {});
      sendJson(response, 200, {message: await this.batch.change(() => this.changeAdapters(body))});
      return;
    }
    const list = this.models.map((id) => this.describe(id));
    if (path === '/health') sendJson(response, 200, {status: 'ok'});
    else if (named === undefined) sendJson(response, 200, {object: 'list', data: list});
    else sendJson(response, 200, this.describe(this.resolveModel(decoded(named))));
  }

  /** Loads, replaces or unloads an adapter. Returns what it did. */
  private async changeAdapters({
    lora_name: name,
    lora_path: path,
    load_inplace,
  }: AdapterChange): Promise<string> {
    const {model, models} = this;
    const isLoaded = models.indexOf(name) > 0;
    try {
      if (path === undefined) {
        if (!isLoaded)
          throw new ApiError(404, `lora_name ${show(name)}: expected a loaded adapter.`, 'lora_name');
        model.deleteAdapter(name);
        models.splice(models.indexOf(name), 1);
        return `unloaded ${name}`;
      }
      if (isLoaded && load_inplace) {
        await model.hotswapAdapter(path, {adapterName: name});
        return `replaced ${name}`;
      }
      if (models.includes(name))
        throw new ApiError(
          400,
          `lora_name ${show(name)}: expected a new name, or load_inplace.`,
          'lora_name',
        );
      await model.loadAdapter(path, {adapterName: name});
      models.push(name);
      return `loaded ${name}`;
    } catch (error) {
      throw error instanceof TfjsLoraError ? new ApiError(400, error.message, null, 'invalid_value') : error;
    }
  }

  /** Answers a completion, and finds everything that is wrong with it before waiting for earlier requests. */
  private async complete(
    request: CompletionRequest,
    response: ServerResponse,
    report: RequestReport,
    signal: AbortSignal,
  ): Promise<void> {
    const name = this.resolveModel(request.model);
    const prompt = await this.encode(request, signal);
    this.assertConstrainable(request);
    const room = this.model.config.maxPositionEmbeddings - prompt.length;
    const options = {...request.options, maxNewTokens: Math.min(request.options.maxNewTokens ?? room, room)};
    const {echo} = request;
    const shapes: AnswerShapes = echo
      ? new ResponsesResponse({...request, echo}, name)
      : new CompletionResponse(request, name);
    if (request.isStreamed) {
      response.writeHead(200, {
        'Content-Type': 'text/event-stream; charset=utf-8',
        'Cache-Control': 'no-cache',
        'X-Accel-Buffering': 'no', // tells a proxy in between to forward each token
      });
      response.flushHeaders();
    }
    report.promptTokens = prompt.length;
    report.completionTokens = 0;
    const {alternatives} = request;
    const adapterNames = this.adapterOf(name);
    const tokens = this.batch.answer(prompt, {...options, alternatives, adapterNames}, signal);
    const events = new EventStream(response, signal, this.stallTimeout);
    if (request.isStreamed) for (const chunk of shapes.opening()) await events.send(chunk);
    let text = '';
    let finishReason: FinishReason = 'length';
    const logprobs: TokenLogprob[] | undefined = alternatives === undefined ? undefined : [];
    for await (const token of tokens) {
      signal.throwIfAborted();
      report.completionTokens++;
      finishReason = token.finishReason ?? finishReason;
      text += token.piece;
      const likelihood = logprobs && tokenLogprobs(this.model.tokenizer as Tokenizer, token);
      if (likelihood) logprobs.push(...likelihood);
      if (request.isStreamed && (token.piece !== '' || likelihood?.length))
        await events.send(shapes.piece(token.piece, likelihood));
    }
    const usage = usageOf(prompt.length, report.completionTokens);
    if (!request.isStreamed) {
      cutOffIfStalled(response, this.stallTimeout);
      sendJson(response, 200, shapes.whole(text, finishReason, usage, logprobs));
      return;
    }
    for (const chunk of shapes.ending(finishReason, text, usage)) await events.send(chunk);
    events.end(shapes.hasDone);
  }

  /** Refuses a schema that cannot be enforced, before the request waits. */
  private assertConstrainable({options: {jsonSchema}, echo}: CompletionRequest): void {
    if (jsonSchema === undefined) return;
    try {
      new TokenConstraint(jsonSchema, this.model.tokenizer as Tokenizer);
    } catch (error) {
      if (!(error instanceof TfjsLoraError)) throw error;
      const [param, place] = echo
        ? ['text', 'text.format.schema']
        : ['response_format', 'response_format.json_schema.schema'];
      throw new ApiError(400, error.message.replace(/^jsonSchema/, place), param, 'invalid_value');
    }
  }

  private async encode(request: CompletionRequest, signal: AbortSignal): Promise<number[]> {
    const {vocabSize, maxPositionEmbeddings} = this.model.config;
    const param = request.echo ? 'input' : request.kind === 'chat' ? 'messages' : 'prompt';
    let ids: number[];
    try {
      const encoder = () => this.options.encodeChat ?? modelChatEncoder(this.model);
      ids = await this.prompts.encode(request, encoder, signal);
    } catch (error) {
      if (error instanceof TfjsLoraError) throw new ApiError(400, error.message, param, 'invalid_value');
      throw error;
    }
    if (ids.length === 0) throw new ApiError(400, `${param}: expected at least one token, got none.`, param);
    const wrong = ids.find((id) => id >= vocabSize);
    if (wrong !== undefined) {
      throw new ApiError(400, `${param}: expected ids below ${vocabSize}, got ${wrong}.`, param);
    }
    if (ids.length < maxPositionEmbeddings) return ids;
    throw contextExceeded(param, maxPositionEmbeddings, String(ids.length));
  }

  private get stallTimeout(): number {
    return this.options.stallTimeout ?? 30_000;
  }

  private resolveModel(name: string | undefined): string {
    if (name === undefined) return this.models[this.models.length - 1];
    if (this.models.includes(name)) return name;
    throw new ApiError(
      404,
      `model ${show(name)}: expected one of ${this.models.join(', ')}, got an unknown one.`,
      'model',
      'model_not_found',
    );
  }

  /** Returns the adapter that answers for a name; undefined if it is merged. */
  private adapterOf(name: string): string | undefined {
    if (this.isMerged) return undefined;
    return name === this.models[0] ? BASE : name;
  }

  private describe(id: string): Record<string, unknown> {
    const [base] = this.models;
    return {
      id,
      object: 'model',
      created: this.started,
      owned_by: 'tfjs-lora',
      max_model_len: this.model.config.maxPositionEmbeddings,
      ...(id !== base && {parent: base}),
    };
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

  private async readBody(request: IncomingMessage): Promise<unknown> {
    const {maxBodyBytes = 4e6} = this.options;
    const type = request.headers['content-type'] ?? '';
    if (!/^application\/json\b/i.test(type)) {
      throw new ApiError(415, `Content-Type: expected application/json, got ${type || 'none'}.`);
    }
    const parts: Buffer[] = [];
    let length = 0;
    for await (const part of request as AsyncIterable<Buffer>) {
      length += part.length;
      if (length > maxBodyBytes) {
        throw new ApiError(413, `body: expected at most ${maxBodyBytes} bytes, got more.`);
      }
      parts.push(part);
    }
    try {
      return parseJson(new TextDecoder('utf-8', {fatal: true}).decode(Buffer.concat(parts)));
    } catch (error) {
      throw new ApiError(400, `body: expected JSON, got: ${(error as Error).message}`);
    }
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

/**
 * Returns the number of requests to answer together.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
function batchSizeFor({rotary}: CausalLM & GenerativeModel, wanted: number | undefined): number {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `serveModel maxBatchSize: expected a whole number from 1, got ${show(wanted)}`,
    );
  }
  return rotary?.dependsOnLength ? 1 : (wanted ?? 8);
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

function sendJson(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
  });
  response.end(text);
}
