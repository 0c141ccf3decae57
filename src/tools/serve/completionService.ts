import type {ServerResponse} from 'node:http';
import type {CausalLM} from '../../../models/causalLM.ts';
import {TokenConstraint} from '../../../models/generation/json/tokenConstraint.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {type ChatEncoder, modelChatEncoder} from '../chat/chatEncoder.ts';
import {ApiError} from './apiError.ts';
import type {CompletionRequest} from './completionRequest.ts';
import {
  type AnswerShapes,
  CompletionResponse,
  type FinishReason,
  type TokenLogprob,
  usageOf,
} from './completionResponse.ts';
import {cutOffIfStalled, EventStream} from './eventStream.ts';
import {contextExceeded, PromptEncoder} from './promptEncoder.ts';
import type {RequestBatch} from './requestBatch.ts';
import {ResponsesResponse} from './responsesResponse.ts';
import {sendJson} from './sendJson.ts';
import type {ServedModels} from './servedModels.ts';
import {tokenLogprobs} from './tokenLogprobs.ts';

/** Answers completions: encodes the prompt, generates with other requests, and sends the text whole or as a stream. */
export class CompletionService {
  private readonly prompts: PromptEncoder;

  /** @param model has a tokenizer */
  constructor(
    private readonly model: CausalLM,
    private readonly models: ServedModels,
    private readonly batch: RequestBatch,
    private readonly options: {encodeChat?: ChatEncoder; stallTimeout?: number},
  ) {
    this.prompts = new PromptEncoder(model.tokenizer as Tokenizer, model.config.maxPositionEmbeddings);
  }

  /**
   * Answers a completion, and finds everything that is wrong with it before waiting for earlier requests.
   *
   * @param counts receives the numbers of tokens as they grow
   * @param signal stops the answer at the next token
   */
  async answer(
    request: CompletionRequest,
    response: ServerResponse,
    counts: {promptTokens?: number; completionTokens?: number},
    signal: AbortSignal,
  ): Promise<void> {
    const name = this.models.resolve(request.model);
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
    counts.promptTokens = prompt.length;
    counts.completionTokens = 0;
    const {alternatives} = request;
    const adapterNames = this.models.adapterOf(name);
    const tokens = this.batch.answer(prompt, {...options, alternatives, adapterNames}, signal);
    const events = new EventStream(response, signal, this.stallTimeout);
    if (request.isStreamed) for (const chunk of shapes.opening()) await events.send(chunk);
    let text = '';
    let finishReason: FinishReason = 'length';
    const logprobs: TokenLogprob[] | undefined = alternatives === undefined ? undefined : [];
    for await (const token of tokens) {
      signal.throwIfAborted();
      counts.completionTokens++;
      finishReason = token.finishReason ?? finishReason;
      text += token.piece;
      const likelihood = logprobs && tokenLogprobs(this.model.tokenizer as Tokenizer, token);
      if (likelihood) logprobs.push(...likelihood);
      if (request.isStreamed && (token.piece !== '' || likelihood?.length))
        await events.send(shapes.piece(token.piece, likelihood));
    }
    const usage = usageOf(prompt.length, counts.completionTokens);
    if (!request.isStreamed) {
      cutOffIfStalled(response, this.stallTimeout);
      sendJson(response, 200, shapes.whole(text, finishReason, usage, logprobs));
      return;
    }
    for (const chunk of shapes.ending(finishReason, text, usage)) await events.send(chunk);
    events.end(shapes.hasDone);
  }

  /** Ends the thread that encodes long prompts. */
  close(): Promise<void> {
    return this.prompts.close();
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
}
