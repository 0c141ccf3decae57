import {randomUUID} from 'node:crypto';
import type {CompletionRequest, ResponsesEcho} from './completionRequest.ts';
import type {AnswerShapes, FinishReason, Usage} from './completionResponse.ts';

const newId = (kind: string) => `${kind}_${randomUUID().replaceAll('-', '')}`;

type Status = 'in_progress' | 'completed' | 'incomplete';

/** Makes the objects of `/v1/responses`: a whole response, or the events of a stream. */
export class ResponsesResponse implements AnswerShapes {
  readonly hasDone = false;
  private readonly id = newId('resp');
  private readonly itemId = newId('msg');
  private readonly created = Math.floor(Date.now() / 1000);
  private events = 0;

  constructor(
    private readonly request: CompletionRequest & {echo: ResponsesEcho},
    private readonly model: string,
  ) {}

  whole(text: string, finishReason: FinishReason, usage: Usage): Record<string, unknown> {
    const status = statusOf(finishReason);
    return this.response(status, [this.item(status, [contentOf(text)])], usage);
  }

  opening(): Record<string, unknown>[] {
    return [
      this.event('response.created', {response: this.response('in_progress')}),
      this.event('response.in_progress', {response: this.response('in_progress')}),
      this.event('response.output_item.added', {output_index: 0, item: this.item('in_progress', [])}),
      this.event('response.content_part.added', {...this.place, part: contentOf('')}),
    ];
  }

  piece(text: string): Record<string, unknown> {
    return this.event('response.output_text.delta', {...this.place, delta: text, logprobs: []});
  }

  ending(finishReason: FinishReason, text: string, usage: Usage): Record<string, unknown>[] {
    const status = statusOf(finishReason);
    const item = this.item(status, [contentOf(text)]);
    return [
      this.event('response.output_text.done', {...this.place, text, logprobs: []}),
      this.event('response.content_part.done', {...this.place, part: contentOf(text)}),
      this.event('response.output_item.done', {output_index: 0, item}),
      this.event(`response.${status}`, {response: this.whole(text, finishReason, usage)}),
    ];
  }

  private get place() {
    return {item_id: this.itemId, output_index: 0, content_index: 0};
  }

  private event(type: string, content: object): Record<string, unknown> {
    return {type, sequence_number: this.events++, ...content};
  }

  private item(status: Status, content: object[]) {
    return {id: this.itemId, type: 'message', status, role: 'assistant', content};
  }

  private response(status: Status, output: object[] = [], usage?: Usage): Record<string, unknown> {
    const {echo, options} = this.request;
    return {
      id: this.id,
      object: 'response',
      created_at: this.created,
      status,
      error: null,
      incomplete_details: status === 'incomplete' ? {reason: 'max_output_tokens'} : null,
      instructions: echo.instructions,
      max_output_tokens: echo.maxOutputTokens,
      metadata: echo.metadata,
      model: this.model,
      output,
      parallel_tool_calls: false,
      previous_response_id: null,
      reasoning: {effort: null, summary: null},
      store: false,
      temperature: options.doSample ? options.temperature : 0,
      text: {format: echo.format},
      tool_choice: 'auto',
      tools: [],
      top_p: options.topP,
      truncation: 'disabled',
      usage: usage ? usageOf(usage) : null,
    };
  }
}

const statusOf = (finishReason: FinishReason): Status =>
  finishReason === 'length' ? 'incomplete' : 'completed';

const contentOf = (text: string) => ({type: 'output_text', text, annotations: [], logprobs: []});

const usageOf = ({prompt_tokens, completion_tokens, total_tokens}: Usage) => ({
  input_tokens: prompt_tokens,
  input_tokens_details: {cached_tokens: 0},
  output_tokens: completion_tokens,
  output_tokens_details: {reasoning_tokens: 0},
  total_tokens,
});
