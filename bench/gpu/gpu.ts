/**
 * Measures LoRA and QLoRA steps of Llama shapes on the graphics card, and PyTorch + PEFT in the same run; see
 * README.md.
 *
 *   npx tsx bench/gpu/gpu.ts [--only check,matmul,attention,train,generate,answers,curve] [--backend tensorflow] [--python PYTHON] [--json FILE] …
 */
import {spawn, spawnSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {parseArgs} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {
  settingsOf,
  type TensorFlowBackend,
} from '../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {generateIds, presets} from '../../models/index.ts';
import {declareQuantized, resolveQuantizationOptions} from '../../models/quantization.ts';
import {AdamW, estimateMemory, joinCluster, Llama, useBackend} from '../../src/index.ts';
import {runOnRanks} from '../../src/tools/cli/runOnRanks.ts';
import {clusterPlace} from '../../src/training/cluster/clusterPlace.ts';
import {installAbsentDevice} from './absentDevice.ts';
import {checkCard} from './checkCard.ts';
import {checkKernels} from './checkKernels.ts';
import {checkStack} from './checkStack.ts';
import {checkTensorFlow} from './checkTensorFlow.ts';
import {compareCurves, lossCurves} from './curve.ts';
import {kernelTimes} from './kernelTimes.ts';
import {measureAttention} from './measureAttention.ts';
import {measureMatMul} from './measureMatMul.ts';
import {measureOnTensorFlow} from './measureOnTensorFlow.ts';
import {opTimes} from './opTimes.ts';
import {fillWithRandomWeights} from './randomWeights.ts';
import {trainAnswers} from './trainAnswers.ts';

const {values: options} = parseArgs({
  options: {
    only: {type: 'string', default: 'check,matmul,train,generate'},
    shape: {type: 'string', default: 'llama-3.2-1b'},
    layers: {type: 'string'},
    batch: {type: 'string', default: '4'},
    accumulation: {type: 'string', default: '1'},
    processes: {type: 'string', default: '1'},
    length: {type: 'string', default: '2048'},
    rank: {type: 'string', default: '8'},
    steps: {type: 'string', default: '10'},
    warmup: {type: 'string', default: '3'},
    backend: {type: 'string', default: 'webgpu'},
    computeDtype: {type: 'string'},
    dtype: {type: 'string', default: 'float16'},
    quantization: {type: 'string', default: 'none,nf4'},
    checkpointing: {type: 'string', default: 'on'},
    compileShaders: {type: 'string', default: 'on'},
    tune: {type: 'boolean', default: false},
    profile: {type: 'boolean', default: false},
    tokens: {type: 'string', default: '512'},
    sequences: {type: 'string', default: '1'},
    losses: {type: 'string'},
    curveSteps: {type: 'string', default: '200'},
    small: {type: 'boolean', default: false},
    python: {type: 'string'},
    peer: {type: 'string', default: 'peft'},
    json: {type: 'string'},
    device: {type: 'string', default: 'best'},
  },
});
const [batch, length, rank] = [options.batch, options.length, options.rank].map(Number);
const [accumulation, processes] = [options.accumulation, options.processes].map(Number);
const backend = options.backend as 'webgpu' | 'tensorflow';
const computeDtype = (options.computeDtype ?? (backend === 'webgpu' ? 'float16' : 'bfloat16')) as 'float32';
const peerDtype = computeDtype === 'float32' ? 'float32' : 'bfloat16';
const dtype = options.dtype as 'float16' | 'bfloat16';
const shape = {...presets[options.shape as keyof typeof presets]};
if (options.layers) shape.numHiddenLayers = Number(options.layers);

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Number of tokens that `--profile` measures. */
const PROFILED = 16;

type Row = Record<string, string | number>;
const results: Record<string, unknown> = {};

async function makeModel(quantization: string): Promise<Llama> {
  const model = Llama.fromConfig(shape, {dtype, allocate: false});
  if (quantization !== 'none')
    declareQuantized(
      model,
      resolveQuantizationOptions('quantize', {type: quantization as 'nf4', doubleQuant: true}),
    );
  fillWithRandomWeights(model.layers);
  return model;
}

/**
 * Records the highest memory use in MiB that the driver reports, if there is a driver. `nvidia-smi` repeats by itself,
 * because steps that block this process would delay a timer.
 */
function watchMemory(): {stop(): number} {
  let highest = 0;
  const args = ['--query-gpu=memory.used', '--format=csv,noheader,nounits', '--loop-ms=100'];
  const watcher = spawn('nvidia-smi', args, {stdio: ['ignore', 'pipe', 'ignore']});
  watcher.on('error', () => {});
  watcher.stdout.on('data', (lines: Buffer) => {
    for (const line of String(lines).split('\n')) highest = Math.max(highest, Number(line) || 0);
  });
  return {
    stop() {
      watcher.kill();
      return highest;
    },
  };
}

async function train(quantization: string, checkpointing: string): Promise<Row> {
  const model = await makeModel(quantization);
  model.gradientCheckpointing = checkpointing === 'offload' ? checkpointing : checkpointing === 'on';
  model.applyLoRA({rank, alpha: 16, targetModules: 'all-linear', seed: 0});
  model.compile({
    optimizer: new AdamW({learningRate: 1e-4}),
    compileShaders: options.compileShaders === 'on',
  });
  // A window of all processes' batches, of which each computes its own.
  const batches = Array.from({length: accumulation * processes}, (_, i) => {
    const inputIds = Array.from({length: batch}, (_, b) =>
      Array.from({length}, (_, t) => ((i * batch + b) * 977 + t * 31) % shape.vocabSize),
    );
    return {inputIds, labels: inputIds};
  });
  const step = () => model.trainOnBatch(batches);
  const memory = watchMemory();
  const times: number[] = [];
  let first = 0;
  let loss = 0;
  let before = 0;
  let i = -Number(options.warmup);
  let begun = performance.now();
  const stepped = () => {
    const time = performance.now() - begun;
    if (i >= 0) times.push(time);
    else first ||= time;
    if (++i === 0) {
      before = tensors();
      poolUse(true);
    }
    begun = performance.now();
  };
  const count = Number(options.steps) - i;
  if (batches.length === 1) {
    // Only here can a step be recorded and replayed.
    await model.fitDataset(
      Array.from({length: count}, () => batches[0]),
      {
        epochs: 1,
        shuffle: false,
        verbose: 0,
        callbacks: [
          {
            onStepEnd: (log) => {
              loss = log.loss;
            },
            onStepComplete: stepped,
          },
        ],
      },
    );
  } else
    for (let n = 0; n < count; n++) {
      ({loss} = await step());
      stepped();
    }
  const peak = poolUse()?.peak;
  await setTimeout(200); // until its output has arrived
  const driverMiB = memory.stop();
  const handles = tensors();
  if (options.profile) showProfile(`profile ${quantization}`, await profile(step));
  const estimate = estimateMemory(model, {
    batchSize: batch,
    sequenceLength: length,
    gradientAccumulationSteps: accumulation,
  });
  model.dispose();
  return {
    what: `${quantization === 'none' ? `LoRA ${dtype}` : `QLoRA ${quantization}`}, checkpointing ${checkpointing}`,
    'first step s': Number((first / 1000).toFixed(1)),
    'step ms': Number(median(times).toFixed(1)),
    'fastest ms': Number(Math.min(...times).toFixed(1)),
    'tokens/s': Math.round((1000 * batches.length * batch * length) / median(times)),
    ...allocated(),
    'GiB estimated': Number((estimate.total / 2 ** 30).toFixed(2)),
    ...(peak !== undefined && {'GiB peak in use': Number((peak / 1024).toFixed(2))}),
    ...(backend === 'tensorflow' && {'tensors more': handles - before}),
    'GiB driver': Number((driverMiB / 1024).toFixed(2)),
    loss: Number(loss.toFixed(processes * accumulation > 1 ? 7 : 4)),
  };
}

/** Returns TensorFlow's own count of tensors, which should be the same after each step. */
const tensors = () => (tf.backend() as {getNumOfTFTensors?: () => number}).getNumOfTFTensors?.() ?? 0;

/** Returns the MiB of TensorFlow's pool on the card, if the card's own ops run there. `restart` resets the peak. */
function poolUse(restart = false): {inUse: number; peak: number} | undefined {
  const running = tf.backend() as TensorFlowBackend;
  if (backend !== 'tensorflow' || !settingsOf(running).hasCardOps) return undefined;
  const {binding} = running as unknown as {
    binding: TensorFlowBackend['binding'] & {tensorDataSync(id: number): Float32Array};
  };
  const attribute = {name: 'restart', type: binding.TF_ATTR_BOOL, value: restart};
  const [{id}] = binding.executeOp('TfjsLoraMemoryUse', [attribute], [], 1);
  const [inUse, peak] = binding.tensorDataSync(id);
  binding.deleteTensor(id);
  return {inUse, peak};
}

function allocated(): Row {
  const {numBytesAllocatedInGPU} = tf.memory() as {numBytesAllocatedInGPU?: number};
  if (numBytesAllocatedInGPU === undefined) return {};
  return {'GiB allocated': Number((numBytesAllocatedInGPU / 2 ** 30).toFixed(2))};
}

const profile = (run: () => Promise<unknown>) => (backend === 'webgpu' ? kernelTimes(run) : opTimes(run));

function showProfile(name: string, profile: Awaited<ReturnType<typeof kernelTimes>>): void {
  results[name] = profile;
  const total = profile.reduce((sum, {milliseconds}) => sum + milliseconds, 0);
  console.log(`${name}: GPU time by kernel, ${total.toFixed(1)} ms in all`);
  console.table(
    profile.slice(0, 30).map(({kernel, count, milliseconds}) => ({
      kernel,
      count,
      ms: Number(milliseconds.toFixed(2)),
    })),
  );
}

type Peer = keyof typeof PEERS;
const PEERS = {peft: 'PEFT', liger: 'PEFT + Liger', unsloth: 'Unsloth'};

/** Runs the same steps in a peer's separate process, and returns our speed relative to it, or its error. */
function trainPeer(peer: Peer, checkpointing: boolean, isQuantized: boolean, ours?: Row): Row {
  const args = JSON.stringify({
    ...shape,
    peer,
    batch,
    length,
    rank,
    steps: Number(options.steps),
    gradientCheckpointing: checkpointing,
    isQuantized,
    dtype: peerDtype,
  });
  const what = `${PEERS[peer]} ${isQuantized ? 'nf4' : peerDtype}, checkpointing ${checkpointing ? 'on' : 'off'}`;
  const script = join(import.meta.dirname ?? __dirname, 'peers', 'train.py');
  const ddp = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', options.processes];
  const words = [...(processes > 1 ? ddp : []), script, args];
  const {status, stdout, stderr} = spawnSync(options.python as string, words, {encoding: 'utf8'});
  if (status !== 0) {
    console.error(stderr);
    return {what, failed: stderr.trim().split('\n').at(-1) ?? `ended with ${status}`};
  }
  const {milliseconds, gib, loss} = JSON.parse(stdout.trim().split('\n').at(-1) as string);
  return {
    what,
    'step ms': Number(median(milliseconds).toFixed(1)),
    'fastest ms': Number(Math.min(...milliseconds).toFixed(1)),
    'tokens/s': Math.round((1000 * processes * batch * length) / median(milliseconds)),
    'GiB peak in use': gib,
    ...(ours && {
      'ours is × as fast': Number((median(milliseconds) / Number(ours['step ms'])).toFixed(2)),
    }),
    loss,
  };
}

/** Measures the peers, with the same checkpointing and quantization, one by one. */
function* trainPeers(checkpointing: boolean, quantization: string, ours?: Row): Generator<Row> {
  if (!options.python || (quantization !== 'none' && quantization !== 'nf4')) return;
  const peers = options.peer.split(',') as Peer[];
  const unknown = peers.filter((peer) => !(peer in PEERS));
  if (unknown.length > 0) throw new Error(`--peer: expected ${Object.keys(PEERS)}, got ${unknown}`);
  for (const peer of peers) {
    if (peer === 'unsloth' && peerDtype === 'float32') continue; // Unsloth has no float32
    yield trainPeer(peer, checkpointing, quantization === 'nf4', ours);
  }
}

async function generate(quantization: string, sequences: number): Promise<Row> {
  const model = await makeModel(quantization);
  const prompts = Array.from({length: sequences}, (_, b) =>
    Array.from({length: 64}, (_, i) => (b * 977 + i * 31) % shape.vocabSize),
  );
  const run = async (count: number) => {
    const begun = performance.now();
    await generateIds(model, prompts, {maxNewTokens: count, doSample: false, eosTokenId: []});
    return performance.now() - begun;
  };
  const tokens = Number(options.tokens);
  await run(16);
  const times: Record<'short' | 'long', number[]> = {short: [], long: []};
  for (let i = 0; i < 5; i++) {
    times.short.push(await run(32));
    times.long.push(await run(32 + tokens));
  }
  if (options.profile) {
    const ofOne = (maxNewTokens: number) =>
      generateIds(
        model,
        prompts.map(() => [1]),
        {maxNewTokens, doSample: false, eosTokenId: []},
      );
    showProfile(`profile of ${PROFILED} tokens ${quantization}`, await profile(() => ofOne(PROFILED)));
  }
  model.dispose();
  const rate = (1000 * sequences * tokens) / (median(times.long) - median(times.short));
  return {
    what: `greedy, batch ${sequences}, ${quantization === 'none' ? dtype : quantization}`,
    'tokens/s': Number(rate.toFixed(1)),
    'ms of 32, prompt included': Number(median(times.short).toFixed(1)),
    [`ms of ${32 + tokens}`]: Number(median(times.long).toFixed(1)),
  };
}

/** Measures on several cards, one process each, and then the peers, which PyTorch starts itself. */
async function onSeveralCards(): Promise<void> {
  process.exitCode = await runOnRanks(processes, process.argv.slice(2), 120);
  for (const checkpointing of options.checkpointing.split(','))
    for (const quantization of options.quantization.split(','))
      for (const row of trainPeers(checkpointing !== 'off', quantization)) console.log(row);
}

async function main(): Promise<void> {
  if (processes > 1 && !clusterPlace(process.env)) return onSeveralCards();
  const {rank: place} = await joinCluster({timeout: 120});
  if (options.device !== 'best') installAbsentDevice(options.device === 'small');
  if (options.only === 'check') process.env.NVIDIA_TF32_OVERRIDE ??= '0'; // results are compared with float32
  const report = await useBackend(backend, {computeDtype, ...(backend === 'webgpu' && {tune: options.tune})});
  if (place === 0) console.log(String(report));
  results['device'] = report;
  const only = options.only.split(',');
  const show = (name: string, rows: Row[]) => {
    results[name] = rows;
    console.log(name);
    console.table(rows);
    if (options.json) writeFileSync(options.json, JSON.stringify(results, null, 2));
  };
  if (only.includes('check'))
    show('check', await (backend === 'webgpu' ? checkKernels() : checkTensorFlow()));
  if (only.includes('check') && backend === 'webgpu') show('check of whole models', await checkStack());
  if (only.includes('check') && backend === 'tensorflow') {
    show('check of the card’s own ops', await checkCard());
    await useBackend(backend, {computeDtype});
  }
  const isWrong = Object.values(results).some(
    (rows) => Array.isArray(rows) && rows.some(({verdict}: Row) => verdict === 'WRONG'),
  );
  if (isWrong) process.exitCode = 1;
  if (only.includes('matmul'))
    show('matmul', await (backend === 'webgpu' ? measureMatMul() : measureOnTensorFlow()));
  if (only.includes('attention')) show('attention', await measureAttention());
  const quantizations = options.quantization.split(',');
  if (only.includes('train')) {
    const rows: Row[] = [];
    for (const checkpointing of options.checkpointing.split(',')) {
      for (const quantization of quantizations) {
        const ours = await train(quantization, checkpointing);
        rows.push(ours);
        console.log(ours); // immediately, because a run may be stopped before its table
        if (processes > 1) continue; // its peers come afterwards
        for (const row of trainPeers(checkpointing !== 'off', quantization, ours)) {
          rows.push(row);
          console.log(row);
        }
      }
    }
    show('train', rows);
  }
  if (only.includes('generate')) {
    const rows: Row[] = [];
    for (const quantization of quantizations) {
      for (const sequences of options.sequences.split(',')) {
        rows.push(await generate(quantization, Number(sequences)));
        console.log(rows.at(-1));
      }
    }
    show('generate', rows);
  }
  if (only.includes('answers')) {
    const memory = (): Row => {
      const peak = poolUse(true)?.peak;
      return {
        ...allocated(),
        ...(peak !== undefined && {'GiB peak in use': Number((peak / 1024).toFixed(2))}),
      };
    };
    const makeAnswering = async () => {
      const model = await makeModel(quantizations[0]);
      model.gradientCheckpointing = options.checkpointing !== 'off';
      model.tokenizer = {decode: (ids: number[]) => ids.join(' '), isSpecial: () => false} as never; // random words
      return model;
    };
    const steps = Number(options.steps);
    const losses = options.losses?.split(',');
    show(
      'answers',
      await trainAnswers({makeModel: makeAnswering, batch, length, rank, steps, losses, memory}),
    );
  }
  if (only.includes('curve')) {
    const steps = Number(options.curveSteps);
    const curves = await lossCurves({python: options.python, steps, isSmall: options.small, backend});
    results['losses'] = curves;
    show('curve', compareCurves(curves));
  }
}

main().then(
  () => process.exit(process.exitCode),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
