import {readValueHead} from '../../../models/valueHeadFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {PpoLossArgs, RewardTexts} from '../../training/losses/ppoLoss.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {adapterFolderOf, type OpenOptions, openBase, useAdapters, useValueHead} from './openModel.ts';
import type {Recipe} from './recipe.ts';

/** Name that a reward adapter has in the trained model. */
const ADAPTER = 'reward';

/** What scores the answers of a recipe. */
export interface OpenedRewards {
  rewards: PpoLossArgs['rewards'];
  /** The reward model, if it is another model. */
  model?: TrainableCausalLM;
  dispose(): void;
}

/**
 * Opens what scores the answers of stage `ppo`: an adapter on the trained model, another model, or a server, as
 * `reward_model_type` says. Call this once the trained model has its own adapter.
 *
 * @param options of the model, if it is another one
 */
export async function openRewards(
  recipe: Recipe,
  trained: TrainableCausalLM,
  options: OpenOptions,
): Promise<OpenedRewards | undefined> {
  const {rewardModel} = recipe;
  const {nameOrPath} = rewardModel;
  if (recipe.data.stage !== 'ppo' || nameOrPath === undefined) return undefined;
  if (rewardModel.type === 'api') return {rewards: rewardServer(nameOrPath), dispose() {}};
  if (rewardModel.type === 'lora') {
    const folder = await adapterFolderOf(nameOrPath, recipe, 'reward_model');
    const {activeAdapters} = trained;
    await trained.loadAdapter(folder, {adapterName: ADAPTER});
    trained.setAdapter(activeAdapters);
    const valueHead = await readValueHead(folder, trained.config.hiddenSize);
    return {rewards: {adapter: ADAPTER, valueHead}, dispose: () => valueHead.dispose()};
  }
  const other = {...recipe, model: {...recipe.model, ...rewardModel, nameOrPath}};
  const model = await openBase(other, options);
  try {
    await useAdapters(model, other, {last: 'keep'});
    await useValueHead(model, other, {trainable: false});
    return {rewards: model, model, dispose: () => void model.dispose()};
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/**
 * Returns what has a server score texts, by LLaMA-Factory's protocol: it gets `{model, messages}` with the texts of
 * prompts and answers, and returns `{scores}`.
 */
function rewardServer(url: string): RewardTexts {
  return {
    async scoreTexts(messages) {
      const unreachable = (got: string, cause?: unknown) =>
        new TfjsLoraError(
          'NETWORK',
          `reward_model ${url}: expected {scores} with ${messages.length} numbers, got ${got}`,
          {cause},
        );
      const response = await fetch(url, {
        method: 'POST',
        headers: {'Content-Type': 'application/json'},
        body: JSON.stringify({model: 'model', messages}),
      }).catch((error) => {
        throw unreachable(String(error), error);
      });
      if (!response.ok) throw unreachable(`status ${response.status}`);
      const body = (await response.json().catch(() => undefined)) as {scores?: unknown} | undefined;
      const scores = body?.scores;
      if (Array.isArray(scores) && scores.length === messages.length && scores.every(Number.isFinite))
        return scores as number[];
      throw unreachable(show(body));
    },
  };
}
