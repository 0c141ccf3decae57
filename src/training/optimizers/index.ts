/**
 * `tfjs-lora/optimizers`: AdamW, Lion and others for any TensorFlow.js model, and the base classes for your own optimizers.
 *
 * @module tfjs-lora/optimizers
 */

export {Adafactor, type AdafactorArgs} from './adafactor.ts';
export {AdamW, type AdamWArgs} from './adamW.ts';
export {AdamW8bit, type AdamW8bitArgs} from './adamW8bit.ts';
export {AdEMAMix, type AdEMAMixArgs} from './adEMAMix.ts';
export {
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
  type NamePattern,
  UNDECAYED_BY_TRANSFORMERS,
} from './decoupledDecayOptimizer.ts';
export {Lion, type LionArgs} from './lion.ts';
export {Lion8bit, type Lion8bitArgs} from './lion8bit.ts';
export {Muon, type MuonArgs} from './muon.ts';
export {NamedStateOptimizer, type StateEntry} from './namedStateOptimizer.ts';
export {
  type MakeOptimizer,
  type OptimizerName,
  type OptimizerSettings,
  optimizerByName,
  optimizerNames,
  registerOptimizer,
} from './optimizerByName.ts';
export {loadOptimizer, saveOptimizer} from './optimizerFile.ts';
export {PagedAdamW, type PagedAdamWArgs} from './pagedAdamW.ts';
export {PagedAdamW8bit, type PagedAdamW8bitArgs} from './pagedAdamW8bit.ts';
export {PagedAdEMAMix, type PagedAdEMAMixArgs} from './pagedAdEMAMix.ts';
export {PagedLion, type PagedLionArgs} from './pagedLion.ts';
export {PagedLion8bit, type PagedLion8bitArgs} from './pagedLion8bit.ts';
export {type PagedArgs, PagedStates} from './pagedStates.ts';
export type {StateSlot, StateStore, StateValues, VariableState} from './stateStore.ts';
