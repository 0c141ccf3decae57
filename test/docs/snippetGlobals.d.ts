// Values that the snippets of README.md and docs/ use without declaring them: a model, some data.
import type {Example, Llama, Tokenizer, TrainingRecord} from 'tfjs-lora';
import type {PromptExample} from 'tfjs-lora/evaluation';

declare global {
  const model: Llama;
  const tokenizer: Tokenizer;
  const training: Example[];
  const heldOut: Example[];
  const records: TrainingRecord[];
  const prompts: PromptExample[];
  const lines: AsyncIterable<string>;
  const inputIds: number[][];
  const labels: number[][];
  const attentionMask: number[][];
}
