import type {CausalLM} from '../../../models/causalLM.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {DatasetArgs} from '../../data/datasets/datasetArgs.ts';
import {chatTemplateOf, type NamedTokens} from '../../data/templates/chatTemplateOf.ts';
import {eosTokenId, templateStopIds} from '../../data/templates/encodeTurns.ts';
import {modelfileOf} from '../../data/templates/modelfileOf.ts';
import {
  MODEL_TEMPLATE,
  type ResolvedTemplate,
  resolveTemplate,
} from '../../data/templates/templateRegistry.ts';

type WithTokenizer = Pick<CausalLM, 'tokenizer' | 'generationConfig' | 'config'>;

/**
 * Makes a model use a recipe's template when it answers and when it is saved, so that whoever loads it formats a
 * conversation, and stops, as in the training. The tokenizer gets the template's chat template (if it has none, or if
 * the template replaces it), its stop words as special tokens, and the first of them as the end token if the template
 * says so. Generation ends at the stop words. This follows LLaMA-Factory's `get_template_and_fix_tokenizer`, except
 * that no token is added. Nothing changes if no template is named, or if it is the model's own.
 *
 * @param from the weights that the Modelfile names. Default: the folder
 * @returns the text of Ollama's Modelfile
 */
export function useTemplate(
  model: WithTokenizer,
  {template: name, defaultSystem}: Pick<DatasetArgs, 'template' | 'defaultSystem'>,
  from?: string,
): string | undefined {
  if (name === undefined || name === MODEL_TEMPLATE || model.tokenizer === undefined) return undefined;
  const resolved = resolveTemplate(name, model.tokenizer, {defaultSystem});
  if (resolved.kind !== 'slots') return undefined;
  const {template} = resolved;
  const stops = templateStopIds(resolved, model.tokenizer);
  const {tokenizer, tokens} = templatedTokenizer(model.tokenizer, resolved);
  model.tokenizer = tokenizer;
  const ends = [...new Set([...stops, ...[model.generationConfig.eosTokenId ?? []].flat()])];
  if (ends.length > 0) {
    const eosTokenId = ends.length === 1 ? ends[0] : ends;
    model.generationConfig = {...model.generationConfig, eosTokenId};
    model.config.eosTokenId = eosTokenId;
  }
  const words = [...new Set([...(tokens.eos === undefined ? [] : [tokens.eos]), ...template.stopWords])];
  return modelfileOf(template, tokens, words, model.config.maxPositionEmbeddings, from);
}

function templatedTokenizer(
  tokenizer: Tokenizer,
  resolved: ResolvedTemplate & {kind: 'slots'},
): {tokenizer: Tokenizer; tokens: NamedTokens} {
  const {template} = resolved;
  const tokenOf = (id: number | undefined) => (id === undefined ? undefined : tokenizer.idToToken(id));
  const tokens = {bos: tokenOf(tokenizer.bosTokenId), eos: tokenOf(eosTokenId(resolved, tokenizer))};
  const pad = tokenizer.padTokenId === undefined ? tokens.eos : undefined;
  const stops = template.stopWords.filter((word) => {
    const id = tokenizer.tokenToId(word);
    return id !== undefined && word !== tokens.eos && !tokenizer.isSpecial(id);
  });
  const special = tokenizer.files.config.additional_special_tokens;
  const needsChatTemplate = template.replaceChatTemplate || !tokenizer.hasChatTemplate;
  const changes = {
    ...(tokens.eos !== tokenOf(tokenizer.eosTokenId) && {eos_token: tokens.eos}),
    ...(pad !== undefined && {pad_token: pad}),
    ...(stops.length > 0 && {
      additional_special_tokens: [...(Array.isArray(special) ? special : []), ...stops],
    }),
    ...(needsChatTemplate && {chat_template: chatTemplateOf(template, tokens)}),
  };
  const isSame = Object.keys(changes).length === 0;
  return {tokenizer: isSame ? tokenizer : tokenizer.withConfig(changes), tokens};
}
