import type {TensorSource} from '../bitsandbytesState.ts';
import {TfjsLoraError} from '../errors.ts';
import type {StorageDtype} from '../float16.ts';
import type {MatrixShape} from '../quantizedTensor.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import {GroupedTensor, type GroupedType} from './groupedTensor.ts';
import {beside, keptTensors, readScales, scaleTensor} from './storedTensors.ts';

interface Float8Options {
  quantType: GroupedType;
  /** Name of the tensor of scales, beside the weight. */
  scale: string;
  /** Names of tensors that values do not depend on. */
  kept: readonly string[];
  /** Rows and columns of a block, if the config says it. */
  blocks?: readonly [rows: number, cols: number] | null;
  /** Type of the values, if the scales have float32. */
  dtype: StorageDtype;
}

/**
 * Reads a weight of 8-bit floats, `weight` `[rows, cols]`, and its scales: one, one per row, or a grid of blocks.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH`, naming the tensor
 */
export function float8Tensor(
  name: string,
  source: TensorSource,
  {quantType, scale, kept, blocks, dtype}: Float8Options,
): GroupedTensor {
  const weight = source.info(name);
  if (weight.dtype !== 'F8_E4M3' || weight.shape.length !== 2) {
    const got = `${weight.dtype} [${weight.shape}]`;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `Tensor ${name}: expected F8_E4M3 of 2 dimensions, got ${got}.`,
    );
  }
  const shape = weight.shape as unknown as MatrixShape;
  const key = beside(name, scale);
  const scales = readScales(source, key);
  if (scales.dtype !== 'float32' && scales.dtype !== dtype) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${key}: expected float32 or the model's ${dtype}, got ${scales.dtype}. Pass {dtype: '${scales.dtype}'}.`,
    );
  }
  return new GroupedTensor({
    quantType,
    shape,
    codeType: 'e4m3',
    codes: source.read(name).slice(),
    groupShape: groupShapeOf(key, shape, scales.shape, blocks ?? undefined),
    scales: scales.values.slice(),
    dtype,
    file: {
      scaleDtype: scales.dtype,
      scaleShape: scales.shape,
      others: keptTensors(
        source,
        kept.map((tensor) => beside(name, tensor)),
      ),
    },
  });
}

export function float8ToTensors(name: string, matrix: GroupedTensor, scale: string): TensorToWrite[] {
  const {shape, codes, scales, groupShape, dtype, file} = matrix;
  const grid = shape.map((size, i) => Math.ceil(size / groupShape[i]));
  const {scaleDtype = dtype, scaleShape = grid, others = []} = file ?? {};
  return [
    {name, dtype: 'F8_E4M3', shape: [...shape], data: codes},
    scaleTensor(beside(name, scale), {values: scales, dtype: scaleDtype, shape: scaleShape}),
    ...others,
  ];
}

/** Returns the rows and columns that share a scale, from the shape of the scales. */
function groupShapeOf(
  key: string,
  shape: MatrixShape,
  scaleShape: readonly number[],
  blocks: readonly [number, number] | undefined,
): [number, number] {
  const grid = scaleShape.length === 2 ? scaleShape : [scaleShape[0] ?? 1, 1];
  const isGrid = blocks && shape.every((size, i) => Math.ceil(size / blocks[i]) === grid[i]);
  if (isGrid) return [...blocks];
  if (scaleShape.length <= 2 && shape.every((size, i) => size % grid[i] === 0)) {
    return [shape[0] / grid[0], shape[1] / grid[1]];
  }
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `Tensor ${key}: expected the scales of a weight of [${shape}]` +
      `${blocks ? ` in blocks of [${blocks}]` : ''}, got [${scaleShape}].`,
  );
}
