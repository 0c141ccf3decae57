/**
 * `tfjs-lora/layers`: Keras-like layers, the ops that they are made of, and what kernels are written with.
 *
 * @module tfjs-lora/layers
 */
export {AdaptedLayer, type MergeOptions} from './adaptedLayer.ts';
export {Adapter, DEFAULT_ADAPTER} from './adapter.ts';
export {CopiedLayer} from './copiedLayer.ts';
export {GeGLU} from './geGLU.ts';
export {
  type AttentionContext,
  GroupedQueryAttention,
  type GroupedQueryAttentionArgs,
  type ProjectionOptions,
} from './groupedQueryAttention.ts';
export {KerasDense} from './kerasDense.ts';
export {kernel} from './kernels/kernel.ts';
export {KeyValueCache} from './keyValueCache.ts';
export {LayerCopy} from './layerCopy.ts';
export {LoRAAdapter, type LoRAAdapterClass, type LoRAMatrices} from './loraAdapter.ts';
export {
  type LoRACallArgs,
  LoRADense,
  type LoRADenseArgs,
  type LoRADenseClass,
  type PlacedAdapterArgs,
} from './loraDense.ts';
export {
  type FieldValues,
  LORA_FIELDS,
  type LoRAAdapterArgs,
  type LoRAField,
  type LoRAFields,
  type LoRAInit,
  type LoRASettings,
} from './loraFields.ts';
export {
  LAYER_OPTIONS,
  type LayerArgs,
  ModuleLayer,
  namedParameters,
  onlyInput,
  onlyShape,
  walk,
} from './moduleLayer.ts';
export {adamW8bitUpdate} from './ops/adamW8bitUpdate.ts';
export {type AdamWSettings, adamWUpdate} from './ops/adamWUpdate.ts';
export {type AdamWTensors, adamWUpdates} from './ops/adamWUpdates.ts';
export {assertShape} from './ops/assertShape.ts';
export {type AttentionOptions, attention, type ScoreOptions} from './ops/attention.ts';
export type {CompileProgress} from './ops/backendTraits.ts';
export {
  type Blockwise8bit,
  blockwise8bitShapes,
  fromBlockwise8bit,
  STATE_BLOCK_SIZE,
  toBlockwise8bit,
} from './ops/blockwise8bit.ts';
export {causalBias} from './ops/causalBias.ts';
export {compileShaders} from './ops/compileShaders.ts';
export {crossEntropy} from './ops/crossEntropy.ts';
export {customGradient} from './ops/customGradient.ts';
export {type DecodeAttentionInputs, decodeAttention} from './ops/decodeAttention.ts';
export {dequantizeRows} from './ops/dequantizeRows.ts';
export {dispatch} from './ops/dispatch.ts';
export {embedding} from './ops/embedding.ts';
export {geGLU} from './ops/geGLU.ts';
export {globalNorm} from './ops/globalNorm.ts';
export {gradientCheckpoint} from './ops/gradientCheckpoint.ts';
export type {GradientCheckpointing} from './ops/gradientCheckpointing.ts';
export {greedyChoice} from './ops/greedyChoice.ts';
export {linear} from './ops/linear.ts';
export {linearCrossEntropy} from './ops/linearCrossEntropy.ts';
export {lion8bitUpdate} from './ops/lion8bitUpdate.ts';
export {type LionSettings, lionUpdate} from './ops/lionUpdate.ts';
export {loraLinear} from './ops/loraLinear.ts';
export {loraMatMul} from './ops/loraMatMul.ts';
export {DifferentiableOp, Op, op, type Tensors} from './ops/op.ts';
export {pack16} from './ops/pack16.ts';
export {quantizedMatMul} from './ops/quantizedMatMul.ts';
export {
  type FourBitMatrix,
  type GroupedMatrix,
  type HostedMatrix,
  type Int8Matrix,
  type QuantizedMatrix,
  readQuantized,
  storeQuantized,
} from './ops/quantizedMatrix.ts';
export {rmsNorm} from './ops/rmsNorm.ts';
export {rotaryEmbedding} from './ops/rotaryEmbedding.ts';
export {softCap} from './ops/softCap.ts';
export {storedMatMul} from './ops/storedMatMul.ts';
export {type DenseMatrix, isQuantized, type StoredMatrix, storedShape} from './ops/storedMatrix.ts';
export {swiGLU} from './ops/swiGLU.ts';
export {unpack16} from './ops/unpack16.ts';
export {unpackMatrix} from './ops/unpackMatrix.ts';
export {
  type LoadBytesOptions,
  Parameter,
  type ParameterArgs,
  type ParameterStorage,
  withoutAllocation,
} from './parameter.ts';
export type {QuantizationArgs, QuantizationType} from './quantizationArgs.ts';
export {QuantizedDense, type QuantizedDenseArgs, type QuantizedDenseClass} from './quantizedDense.ts';
export {QuantizedParameter} from './quantizedParameter.ts';
export {RMSNorm, type RMSNormArgs} from './rmsNorm.ts';
export type {RopeScaling} from './ropeFrequencies.ts';
export {RotaryEmbedding, type RotaryEmbeddingArgs, type RotaryTables} from './rotaryEmbedding.ts';
export type {RowFactors} from './rowFactors.ts';
export type {RowPart} from './rowsOfPositions.ts';
export {SwiGLU, type SwiGLUArgs} from './swiGLU.ts';
export {TiedHead, type TiedHeadArgs} from './tiedHead.ts';
export {TokenEmbedding, type TokenEmbeddingArgs} from './tokenEmbedding.ts';
export {activate, TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';
export {ValueHead, type ValueHeadArgs} from './valueHead.ts';
