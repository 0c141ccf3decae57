import {randomUUID} from 'node:crypto';
import type {CompletionRequest} from './completionRequest.ts';

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export type FinishReason = 'stop' | 'length';

export const usageOf = (promptTokens: number, completionTokens: number): Usage => ({
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
  total_tokens: promptTokens + completionTokens,
});

/** A token and its probability, in OpenAI's API. */
export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[] | null;
  top_logprobs: Omit<TokenLogprob, 'top_logprobs'>[];
}

/** The objects of one response, whole or as a stream. */
export interface AnswerShapes {
  /** Whether a stream ends with `[DONE]`. */
  readonly hasDone: boolean;
  /** @param logprobs the tokens' probabilities, if they were requested */
  whole(text: string, reason: FinishReason, usage: Usage, logprobs?: TokenLogprob[]): Record<string, unknown>;
  opening(): Record<string, unknown>[];
  piece(text: string, logprobs?: TokenLogprob[]): Record<string, unknown>;
  /** @param text the whole answer */
  ending(reason: FinishReason, text: string, usage: Usage): Record<string, unknown>[];
}

/** Makes the objects of one completion in OpenAI's API, whole or in chunks. */
export class CompletionResponse implements AnswerShapes {
  readonly hasDone = true;
  private readonly id: string;
  private readonly created = Math.floor(Date.now() / 1000);
  private readonly isChat: boolean;

  private readonly includesUsage: boolean;

  constructor(
    {kind, includesUsage}: CompletionRequest,
    private readonly model: string,
  ) {
    this.isChat = kind === 'chat';
    this.includesUsage = includesUsage;
    this.id = `${this.isChat ? 'chatcmpl' : 'cmpl'}-${randomUUID().replaceAll('-', '')}`;
  }

  whole(
    text: string,
    finishReason: FinishReason,
    usage: Usage,
    logprobs?: TokenLogprob[],
  ): Record<string, unknown> {
    const content = this.isChat ? {message: {role: 'assistant', content: text, refusal: null}} : {text};
    return {
      ...this.head(this.isChat ? 'chat.completion' : 'text_completion'),
      choices: [{index: 0, ...content, logprobs: listed(logprobs), finish_reason: finishReason}],
      usage,
    };
  }

  /** Returns the chunks at the start of a stream: one for a chat, none for a text. */
  opening(): Record<string, unknown>[] {
    return this.isChat ? [this.chunk({delta: {role: 'assistant', content: ''}})] : [];
  }

  piece(text: string, logprobs?: TokenLogprob[]): Record<string, unknown> {
    return this.chunk(this.isChat ? {delta: {content: text}} : {text}, null, logprobs);
  }

  ending(finishReason: FinishReason, _text: string, usage: Usage): Record<string, unknown>[] {
    const last = this.chunk(this.isChat ? {delta: {}} : {text: ''}, finishReason);
    return this.includesUsage ? [last, {...this.head(this.chunkKind), choices: [], usage}] : [last];
  }

  private chunk(
    content: object,
    finishReason: FinishReason | null = null,
    logprobs?: TokenLogprob[],
  ): Record<string, unknown> {
    const choice = {index: 0, ...content, logprobs: listed(logprobs), finish_reason: finishReason};
    // If the stream ends with the usage, every earlier chunk has a null for it.
    return {...this.head(this.chunkKind), choices: [choice], ...(this.includesUsage && {usage: null})};
  }

  private get chunkKind(): string {
    return this.isChat ? 'chat.completion.chunk' : 'text_completion';
  }

  private head(object: string): Record<string, unknown> {
    return {id: this.id, object, created: this.created, model: this.model};
  }
}

const listed = (content: TokenLogprob[] | undefined) => (content ? {content, refusal: null} : null);
