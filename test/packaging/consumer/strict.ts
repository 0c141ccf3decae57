// A strict TypeScript file in a project that installed the tarball; pack.test.ts type-checks it under each resolver.
import * as tf from '@tensorflow/tfjs';
import {AdamW, AutoModelForCausalLM, Llama, trainable, useBackend} from 'tfjs-lora';
import {serveTasks} from 'tfjs-lora/browser';
import {registerTemplate} from 'tfjs-lora/data';
import {LoRADense} from 'tfjs-lora/layers';
import {rouge} from 'tfjs-lora/metrics';
import {type Batch, type CausalLM, countParameters, LlamaForCausalLM, registerModel} from 'tfjs-lora/models';
import {showLoss} from 'tfjs-lora/notebook';
import {NamedStateOptimizer} from 'tfjs-lora/optimizers';
import {plotLoss} from 'tfjs-lora/plots';
import type {StorageDtype} from 'tfjs-lora/quant';
import {SafetensorsFile, type SafetensorsFolder, TfjsLoraError} from 'tfjs-lora/quant';
import {type Recipe, trainRecipe} from 'tfjs-lora/recipes';
import {type ServeOptions, serveModel} from 'tfjs-lora/serve';

/** True only for the type `any`, the type of an import without declarations. */
type IsAny<T> = 0 extends 1 & T ? true : false;
export const declared: [
  IsAny<typeof Llama>,
  IsAny<typeof countParameters>,
  IsAny<typeof LoRADense>,
  IsAny<typeof SafetensorsFile>,
  IsAny<typeof registerModel>,
  IsAny<InstanceType<typeof Llama>['config']>,
  IsAny<Awaited<ReturnType<typeof AutoModelForCausalLM.fromPretrained>>['config']>,
  IsAny<ReturnType<Llama['fitDataset']>>,
] = [false, false, false, false, false, false, false, false];

/** A model family outside the package. */
class MineForCausalLM extends LlamaForCausalLM {
  static override readonly modelType = 'mine';
  static override readonly architecture = 'MineForCausalLM';
  readonly temperature = 2;
}
registerModel(MineForCausalLM);

export async function trainMine(batch: Batch): Promise<number> {
  const model = trainable(MineForCausalLM).fromConfig('llama-3.2-1b');
  const {loss} = await model.trainOnBatch(batch);
  const opened: CausalLM = await AutoModelForCausalLM.fromPretrained('mine');
  return loss * model.temperature + model.config.ropeTheta + opened.config.vocabSize;
}

// @ts-expect-error: a family's class must be a model's
export const noFamily = () => registerModel(LoRADense);

export const around: {[subpath: string]: (...args: never[]) => unknown} = {
  registerTemplate,
  rouge,
  plotLoss,
  showLoss,
  trainRecipe,
  serveTasks,
  serveModel,
};
export abstract class Mine extends NamedStateOptimizer {}
export const port = ({port}: ServeOptions): number | undefined => port;
export const pathOf = ({path}: Recipe): string => path;

export async function fineTune(folder: string, batches: Batch[]): Promise<number[]> {
  await useBackend('cpu');
  const model: Llama = await Llama.fromPretrained(folder);
  const asLayersModel: tf.LayersModel = model;
  asLayersModel.summary();
  model.applyLoRA({rank: 8, targetModules: ['q_proj', 'v_proj']});
  model.compile({optimizer: new AdamW({learningRate: 1e-4})});
  const losses: number[] = [];
  for (const batch of batches) losses.push((await model.trainOnBatch(batch)).loss);
  const text: string = await model.generate('Once', {maxNewTokens: 8});
  console.log(text, trainableOf(model));
  await model.saveAdapter('adapter');
  model.dispose();
  return losses;
}

function trainableOf(model: CausalLM): number {
  return countParameters(model).trainable;
}

/** A subclass outside the package. */
export class HalvedLoRADense extends LoRADense {
  static override className = 'HalvedLoRADense';

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: {training?: boolean} = {}): tf.Tensor {
    return tf.tidy(() => super.call(inputs, kwargs).div(2));
  }
}
tf.serialization.registerClass(HalvedLoRADense);

export const sequential = tf.sequential({layers: [new LoRADense({units: 64, rank: 4, inputShape: [32]})]});

export function shapesOf(path: string): Map<string, readonly number[]> {
  const file: SafetensorsFile = SafetensorsFile.open(path);
  const shapes = new Map([...file.tensors].map(([name, {shape}]) => [name, shape]));
  file.close();
  return shapes;
}

export function namesOf(model: SafetensorsFolder): string[] {
  return [...model.names()];
}

export const dtype: StorageDtype = 'bfloat16';
export const error = new TfjsLoraError('CORRUPT_FILE', 'a file');

// @ts-expect-error: float64 is not a storage dtype
export const noDtype: StorageDtype = 'float64';
// @ts-expect-error: codes are a closed list
export const noCode = new TfjsLoraError('NO_SUCH_CODE', 'a file');
// @ts-expect-error: a rank is a number
export const noRank = () => new LoRADense({units: 64, rank: '4'});
