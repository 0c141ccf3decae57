import {greedyChoiceOp} from '../../../ops/greedyChoice.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';

/** The place of a thread that has seen no logit: every other place is better. */
const NOWHERE = '0x7fffffff';

/** Number of logits that a workgroup looks at. */
const PART = 2048;

/**
 * `GreedyChoice` (layers/ops/greedyChoice.ts): a workgroup per part of a row, then one per row for the results of its
 * parts.
 */
export const greedyChoice = kernel(greedyChoiceOp, 'webgpu', ({inputs, backend}) => {
  const [rows, vocab] = inputs.logits.shape;
  const parts = Math.ceil(vocab / PART);
  const best = backend.makeTensorInfo([rows, parts], 'float32');
  const places = backend.makeTensorInfo([rows, parts], 'int32');
  runShader(backend, {
    shader: bestOfParts(),
    buffers: {best, places, logits: inputs.logits},
    uniforms: {rows, vocab, parts},
    workgroups: rows * parts,
  });
  const choices = backend.makeTensorInfo([rows], 'int32');
  runShader(backend, {
    shader: bestOfRows(),
    buffers: {choices, best, places},
    uniforms: {rows, parts},
    workgroups: rows,
  });
  for (const {dataId} of [best, places]) backend.disposeData(dataId);
  return choices;
});

/**
 * Finds the first of the largest among all threads; a logit that is not finite beats all others, and the first of those
 * wins.
 */
const REDUCE = `
var<workgroup> logitsOf: array<f32, WORKGROUP>;
var<workgroup> placesOf: array<i32, WORKGROUP>;
fn isBetter(logit: f32, place: i32, than: f32, thanPlace: i32) -> bool {
  if (place < 0 || thanPlace < 0) { return place < 0 && (thanPlace >= 0 || place > thanPlace); } // -1 - column
  return logit > than || (logit == than && place < thanPlace);
}
fn reduce(logit: f32, place: i32, local: u32) {
  logitsOf[local] = logit;
  placesOf[local] = place;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width && isBetter(logitsOf[local + width], placesOf[local + width], logitsOf[local], placesOf[local])) {
      logitsOf[local] = logitsOf[local + width];
      placesOf[local] = placesOf[local + width];
    }
    workgroupBarrier();
  }
}`;

// Finiteness is read from the bits: a compiler may take float comparisons with NaN and infinity for granted.
const bestOfParts = shader(() => ({
  name: 'GreedyParts',
  outputs: {best: 'f32', places: 'i32'},
  inputs: {logits: 'f32'},
  uniforms: {rows: 'u32', vocab: 'u32', parts: 'u32'},
  workgroup: 256,
  globals: REDUCE,
  body: `
  let row = flatGroup / u.parts;
  if (row >= u.rows) { return; }
  let first = flatGroup % u.parts * ${PART}u;
  let end = min(first + ${PART}u, u.vocab);
  var highest = -3.4028234e38;
  var place = ${NOWHERE};
  for (var c = first + local; c < end; c += WORKGROUP) {
    let logit = logits[row * u.vocab + c];
    let isWrong = (bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u;
    let at = select(i32(c), -1 - i32(c), isWrong);
    if (isBetter(logit, at, highest, place)) {
      highest = select(logit, 0.0, isWrong);
      place = at;
    }
  }
  reduce(highest, place, local);
  if (local == 0u) {
    best[flatGroup] = logitsOf[0];
    places[flatGroup] = placesOf[0];
  }`,
}));

const bestOfRows = shader(() => ({
  name: 'GreedyChoice',
  outputs: {choices: 'i32'},
  inputs: {best: 'f32', places: 'i32'},
  uniforms: {rows: 'u32', parts: 'u32'},
  workgroup: 64,
  globals: REDUCE,
  body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  var highest = -3.4028234e38;
  var place = ${NOWHERE};
  for (var p = local; p < u.parts; p += WORKGROUP) {
    let at = row * u.parts + p;
    if (isBetter(best[at], places[at], highest, place)) {
      highest = best[at];
      place = places[at];
    }
  }
  reduce(highest, place, local);
  if (local == 0u) { choices[row] = placesOf[0]; }`,
}));
