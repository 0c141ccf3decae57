import {readdirSync, readFileSync, rmSync, truncateSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type Example, type FitArgs, Llama, setWarningHandler, Trainer} from '../../../src/index.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {BigramModel} from './bigramModel.ts';
import {temporaryFolder} from './temporaryFolder.ts';

const EXAMPLES: Example[] = Array.from({length: 11}, (_, i) => ({
  inputIds: Array.from({length: 3 + (i % 4)}, (_, t) => (1 + t * (i + 2)) % 6),
}));
const pathOf = temporaryFolder();

let warnings: string[];
let before: (message: string) => void;
beforeEach(() => {
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});
afterEach(() => void setWarningHandler(before));

const OPTIMIZERS = {
  adamw: () => new AdamW({learningRate: 0.1}),
  adam: () => tf.train.adam(0.1),
  sgd: () => tf.train.sgd(0.5),
  momentum: () => tf.train.momentum(0.5, 0.9),
  rmsprop: () => tf.train.rmsprop(0.01, 0.9, 0.5),
  adagrad: () => tf.train.adagrad(0.5),
  adadelta: () => tf.train.adadelta(0.5),
  adamax: () => tf.train.adamax(0.1),
};

/** Runs a training with a new model and optimizer; returns its losses by step. */
async function bigramRun(
  args: FitArgs,
  optimizer: keyof typeof OPTIMIZERS = 'adamw',
  data: unknown = EXAMPLES,
) {
  const model = new BigramModel();
  const trainer = new Trainer(model);
  const made = OPTIMIZERS[optimizer]();
  trainer.compile({
    optimizer: made,
    schedule: {name: 'cosine', warmupSteps: 2, totalSteps: 12},
    maxGradNorm: 1,
  });
  try {
    const history = await trainer.fit(data as Example[], {batchSize: 1, verbose: 0, ...args});
    return {
      history,
      losses: history.steps.map(({step, loss}) => [step, loss]),
      weights: Array.from(model.table.dataSync()),
    };
  } finally {
    made.dispose();
    model.table.dispose();
  }
}

/** Requests a stop during a step. */
function stopAt(step: number): Pick<FitArgs, 'signal' | 'callbacks'> {
  const controller = new AbortController();
  return {
    signal: controller.signal,
    callbacks: {onStepBegin: (begun) => void (begun === step && controller.abort())},
  };
}

describe('a run that is interrupted and resumed', () => {
  const ARGS: FitArgs = {epochs: 2, gradientAccumulationSteps: 2, seed: 4};

  const resumable = Object.keys(OPTIMIZERS).filter((name) => name !== 'adamax');
  test.each(resumable as (keyof typeof OPTIMIZERS)[])('is exact with %s', async (name) => {
    const whole = await bigramRun(ARGS, name);
    const outputDir = pathOf(`optimizer-${name}`);
    const first = await bigramRun({...ARGS, outputDir, ...stopAt(4)}, name);
    expect(first.history.isInterrupted).toBe(true);
    expect(first.losses).toEqual(whole.losses.slice(0, 4)); // the current step was finished
    const rest = await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true}, name);
    expect(rest.losses).toEqual(whole.losses.slice(4));
    expect(rest.weights).toEqual(whole.weights);
    expect(rest.history.isInterrupted).toBe(false);
    expect(rest.history.history.loss).toEqual(whole.history.history.loss); // the epoch's mean counts what came before
    expect(warnings).toEqual([]);
  });

  test.each<[string, FitArgs, unknown]>([
    ['stopping at the end of an epoch', {...ARGS, ...stopAt(6)}, EXAMPLES],
    ['examples grouped by length', {...ARGS, groupByLength: true, ...stopAt(5)}, EXAMPLES],
    ['no shuffle', {...ARGS, shuffle: false, ...stopAt(8)}, EXAMPLES],
    ['an endless number of epochs', {gradientAccumulationSteps: 3, maxSteps: 9, ...stopAt(7)}, EXAMPLES],
    [
      'a stream',
      {...ARGS, ...stopAt(9)},
      async function* (epoch: number) {
        yield* EXAMPLES.slice(epoch);
      },
    ],
  ])('is exact with %s', async (_what, {signal, callbacks, ...args}, data) => {
    const whole = await bigramRun(args, 'adamw', data);
    const outputDir = pathOf(_what);
    const first = await bigramRun({...args, outputDir, signal, callbacks}, 'adamw', data);
    const rest = await bigramRun({...args, outputDir, resumeFromCheckpoint: true}, 'adamw', data);
    expect([...first.losses, ...rest.losses]).toEqual(whole.losses);
    expect(rest.weights).toEqual(whole.weights);
  });

  test('evaluates neither twice nor too seldom, and keeps the log and callbacks’ state', async () => {
    const counts: number[] = [];
    const counting = () => {
      let count = 0;
      return {
        stateName: 'counter',
        getState: () => ({count}),
        setState: (state: Record<string, unknown>) => {
          count = state.count as number;
        },
        onStepEnd: () => void counts.push(++count),
      };
    };
    const args: FitArgs = {
      ...ARGS,
      validationData: EXAMPLES.slice(0, 2),
      evaluationSteps: 2,
      loggingSteps: 3,
    };
    const logOf = (outputDir: string) =>
      JSON.parse(readFileSync(join(outputDir, 'trainer_state.json'), 'utf8')).log_history.map(
        ({step, epoch, loss, eval_loss, train_loss}: Record<string, number>) => ({
          step,
          epoch,
          loss,
          eval_loss,
          train_loss,
        }),
      );
    await bigramRun({...args, outputDir: pathOf('log-whole')});
    const outputDir = pathOf('log-parts');
    for (const stop of [4, 7, 6]) {
      const {signal, callbacks} = stopAt(stop);
      const more =
        stop === 6 ? {resumeFromCheckpoint: join(outputDir, 'checkpoint-4')} : {resumeFromCheckpoint: true};
      await bigramRun({...args, outputDir, signal, callbacks: [callbacks as object, counting()], ...more});
    }
    const {history} = await bigramRun({
      ...args,
      outputDir,
      resumeFromCheckpoint: true,
      callbacks: counting(),
    });
    expect(history.steps.map(({step}) => step)).toEqual([7, 8, 9, 10, 11, 12]); // from checkpoint-6, the newest by training
    expect(logOf(outputDir)).toEqual(logOf(pathOf('log-whole')));
    expect(counts).toEqual([1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9, 10, 11, 12]);
  });

  test.each<[string, FitArgs, number]>([
    ['between epochs', {}, 6],
    ['by steps', {evaluationStrategy: 'steps', evaluationSteps: 2}, 4],
    ['at the end', {evaluationStrategy: 'no'}, 12],
  ])(
    'stopped in an evaluation %s, it repeats that evaluation when it is resumed',
    async (what, more, stopped) => {
      const args: FitArgs = {...ARGS, ...more, validationData: EXAMPLES};
      const evaluationsOf = ({history}: Awaited<ReturnType<typeof bigramRun>>) =>
        history.evaluations.map(({step, loss}) => [step, loss]);
      const whole = await bigramRun(args);
      const outputDir = pathOf(`evaluation-${what}`);
      const controller = new AbortController();
      let isEvaluating = false;
      const data = function* () {
        for (const example of EXAMPLES) {
          yield example;
          if (isEvaluating) controller.abort();
        }
      };
      const first = await bigramRun({
        ...args,
        outputDir,
        validationData: data,
        signal: controller.signal,
        callbacks: ({step}) => {
          isEvaluating = step === stopped;
        },
      });
      expect(first.history.isInterrupted).toBe(true);
      expect(first.losses).toEqual(whole.losses.slice(0, stopped));
      expect(readdirSync(outputDir)).toContain(`checkpoint-${stopped}`);
      expect(readdirSync(outputDir)).not.toContain('train_results.json');
      const rest = await bigramRun({...args, outputDir, validationData: data, resumeFromCheckpoint: true});
      expect([...first.losses, ...rest.losses]).toEqual(whole.losses);
      expect([...evaluationsOf(first), ...evaluationsOf(rest)]).toEqual(evaluationsOf(whole));
      const epochs = [first, rest].flatMap(({history}) => history.history.loss ?? []);
      expect(epochs).toEqual(whole.history.history.loss);
    },
  );

  test('a finished run that is resumed trains no more, and one with more epochs continues', async () => {
    const outputDir = pathOf('finished');
    const first = await bigramRun({...ARGS, outputDir});
    const files = contentsOf(outputDir);
    const again = await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true});
    expect(again.losses).toEqual([]);
    expect(again.weights).toEqual(first.weights);
    expect(contentsOf(outputDir)).toEqual(files);
    const longer = await bigramRun({...ARGS, epochs: 3, outputDir, resumeFromCheckpoint: true});
    expect(longer.losses.map(([step]) => step)).toEqual([13, 14, 15, 16, 17, 18]);
    expect(warnings).toEqual([expect.stringContaining('the number of steps changed')]);
  });
});

/** Of each file at the top of a folder. */
const contentsOf = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, {withFileTypes: true})
      .filter((entry) => entry.isFile())
      .map(({name}) => [name, readFileSync(join(folder, name), 'latin1')]),
  );

test('a finished run that is resumed gives the model its best weights, if it ended with those', async () => {
  const outputDir = pathOf('finished-best');
  const args = {
    epochs: 3,
    outputDir,
    validationData: EXAMPLES.slice(0, 1),
    evaluationSteps: 2,
    saveSteps: 2,
    loadBestModelAtEnd: true,
  };
  const first = await bigramRun(args);
  const files = contentsOf(outputDir);
  const again = await bigramRun({...args, resumeFromCheckpoint: true});
  expect(again.weights).toEqual(first.weights);
  expect(contentsOf(outputDir)).toEqual(files);
});

describe('checkpoints', () => {
  const saved = (outputDir: string) =>
    readdirSync(outputDir)
      .filter((name) => name.includes('checkpoint'))
      .sort();
  const ARGS: FitArgs = {epochs: 2, gradientAccumulationSteps: 2};

  test('are written by steps, by epoch or not at all, including the last step', async () => {
    const folders: Record<string, string[]> = {};
    const runs: [string, FitArgs][] = [
      ['steps', {saveSteps: 5}],
      ['epoch', {saveStrategy: 'epoch'}],
      ['no', {saveStrategy: 'no'}],
      ['default', {}],
      ['limit', {saveSteps: 2, saveTotalLimit: 2}],
    ];
    for (const [name, args] of runs) {
      await bigramRun({...ARGS, outputDir: pathOf(`by-${name}`), ...args});
      folders[name] = saved(pathOf(`by-${name}`));
    }
    expect(folders).toEqual({
      steps: ['checkpoint-10', 'checkpoint-12', 'checkpoint-5'],
      epoch: ['checkpoint-12', 'checkpoint-6'],
      no: [],
      default: ['checkpoint-12'],
      limit: ['checkpoint-10', 'checkpoint-12'],
    });
    expect(readdirSync(join(pathOf('by-steps'), 'checkpoint-5')).sort()).toEqual(
      [
        'optimizer.safetensors',
        'resume_state.json',
        'trainer_state.json',
        'trained_weights.safetensors',
      ].sort(),
    );
  });

  test.each([
    ['cut short', (folder: string) => truncateSync(join(folder, 'optimizer.safetensors'), 40)],
    ['without a file', (folder: string) => rmSync(join(folder, 'trained_weights.safetensors'))],
    ['without its list', (folder: string) => rmSync(join(folder, 'resume_state.json'))],
    ['with half a list', (folder: string) => truncateSync(join(folder, 'resume_state.json'), 100)],
  ])('a damaged one (%s) is skipped with a warning that names it', async (what, tear) => {
    const outputDir = pathOf(`damaged-${what}`);
    await bigramRun({...ARGS, outputDir, saveSteps: 4});
    tear(join(outputDir, 'checkpoint-12'));
    const {losses} = await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true});
    expect(losses.map(([step]) => step)).toEqual([9, 10, 11, 12]);
    expect(warnings).toEqual([expect.stringMatching(/checkpoint-12 is damaged and was skipped: .*expected/)]);
    await expect(
      bigramRun({...ARGS, outputDir, resumeFromCheckpoint: join(outputDir, 'checkpoint-99')}),
    ).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
  });

  test('a flipped bit is found, wherever it is, and the previous checkpoint is named', async () => {
    const outputDir = pathOf('flipped');
    await bigramRun({...ARGS, outputDir, saveSteps: 4});
    const [folder, before] = ['checkpoint-12', 'checkpoint-8'].map((name) => join(outputDir, name));
    for (const name of readdirSync(folder)) {
      const path = join(folder, name);
      const sound = readFileSync(path);
      for (const share of [0.1, 0.4, 0.7]) {
        const damaged = Buffer.from(sound);
        damaged[Math.floor(share * sound.length)] ^= 1;
        writeFileSync(path, damaged);
        const resumed = bigramRun({...ARGS, outputDir, resumeFromCheckpoint: folder});
        await expect(resumed).rejects.toMatchObject({
          code: 'CORRUPT_FILE',
          message: expect.stringContaining(
            `checkpoint ${folder} ${name}: expected its contents as they were written, got other contents. Resume from the one before it: ${before}.`,
          ),
        });
      }
      writeFileSync(path, sound);
    }
  });

  test('of earlier versions, without checksums, are read', async () => {
    const outputDir = pathOf('unsummed');
    await bigramRun({...ARGS, outputDir, ...stopAt(3)});
    const path = join(outputDir, 'checkpoint-3', 'resume_state.json');
    const {sha256: _, files, ...state} = JSON.parse(readFileSync(path, 'utf8'));
    const described = Object.entries(files as Record<string, {bytes: number}>);
    const sizes = described.map(([name, {bytes}]) => [name, bytes]);
    writeFileSync(path, JSON.stringify({...state, files: Object.fromEntries(sizes)}, null, 2));
    const {losses} = await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true});
    expect(losses[0][0]).toBe(4);
  });

  test('when all are damaged nothing is lost, and without any the run starts over', async () => {
    const outputDir = pathOf('all-damaged');
    await bigramRun({...ARGS, outputDir});
    rmSync(join(outputDir, 'checkpoint-12', 'resume_state.json'));
    await expect(bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true})).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining('got only damaged ones'),
    });
    expect(saved(outputDir)).toEqual(['checkpoint-12']);
    warnings = [];
    await bigramRun({...ARGS, outputDir: pathOf('none'), resumeFromCheckpoint: true});
    expect(warnings).toEqual([expect.stringContaining('no checkpoint to resume from')]);
  });

  test('incomplete files of a killed run are removed, with a warning', async () => {
    const outputDir = pathOf('half');
    await bigramRun({...ARGS, outputDir});
    const half = join(outputDir, '.checkpoint-14.0a-1b.tmp');
    writeFileSync(half, '');
    await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true});
    expect(warnings).toEqual([
      expect.stringContaining('.checkpoint-14.0a-1b.tmp is incomplete and was skipped'),
    ]);
    expect(readdirSync(outputDir)).not.toContain('.checkpoint-14.0a-1b.tmp');
  });

  test('that a resumed run leaves behind neither outlive its own nor count as the newest', async () => {
    const outputDir = pathOf('left');
    await bigramRun({...ARGS, epochs: 4, outputDir, saveSteps: 1});
    const from = join(outputDir, 'checkpoint-3');
    const second = await bigramRun({
      ...ARGS,
      outputDir,
      saveSteps: 1,
      resumeFromCheckpoint: from,
      ...stopAt(5),
    });
    expect(second.losses.map(([step]) => step)).toEqual([4, 5]);
    expect(warnings).toEqual([
      expect.stringContaining('the number of steps changed'),
      expect.stringMatching(/later checkpoints are renamed: checkpoint-4 as abandoned-checkpoint-4, /),
    ]);
    expect(saved(outputDir)).toEqual([
      ...Array.from({length: 21}, (_, i) => `abandoned-checkpoint-${4 + i}`).sort(),
      ...[1, 2, 3, 4, 5].map((step) => `checkpoint-${step}`),
    ]);
    const limited = {...ARGS, outputDir, saveSteps: 1, saveTotalLimit: 2};
    const third = await bigramRun({...limited, resumeFromCheckpoint: true});
    expect(third.losses.map(([step]) => step)).toEqual([6, 7, 8, 9, 10, 11, 12]);
    expect(saved(outputDir)).toEqual(['checkpoint-11', 'checkpoint-12']); // abandoned ones went first
    warnings = [];
    await bigramRun({
      ...limited,
      maxSteps: 5,
      resumeFromCheckpoint: join(outputDir, 'checkpoint-11'),
      ...stopAt(1),
    });
    expect(saved(outputDir)).toEqual(['abandoned-checkpoint-12', 'checkpoint-11']);
    expect(warnings).toContainEqual(
      expect.stringContaining('abandoned-checkpoint-12, and removed first when new ones are written'),
    );
  });

  test('each new one is kept beside later ones that the run leaves behind', async () => {
    const outputDir = pathOf('left-limited');
    await bigramRun({...ARGS, outputDir, saveSteps: 1});
    const there: string[][] = [];
    await bigramRun({
      ...{...ARGS, epochs: 1, outputDir, saveSteps: 1, saveTotalLimit: 2},
      resumeFromCheckpoint: join(outputDir, 'checkpoint-3'),
      callbacks: {onSave: () => void there.push(saved(outputDir))},
    });
    expect(there).toEqual([
      ['checkpoint-3', 'checkpoint-4'],
      ['checkpoint-4', 'checkpoint-5'],
      ['checkpoint-5', 'checkpoint-6'],
    ]);
  });

  test('the last one in an output folder is taken when that folder is named', async () => {
    const [outputDir, other] = [pathOf('named'), pathOf('named-elsewhere')];
    await bigramRun({...ARGS, outputDir, saveSteps: 5, ...stopAt(6)});
    const {losses} = await bigramRun({...ARGS, outputDir: other, resumeFromCheckpoint: outputDir});
    expect(losses.map(([step]) => step)).toEqual([7, 8, 9, 10, 11, 12]);
    await expect(
      bigramRun({...ARGS, outputDir: other, resumeFromCheckpoint: pathOf('nowhere')}),
    ).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
  });

  test('an unfinished run is overwritten only with both settings; one without checkpoints may start again', async () => {
    const outputDir = pathOf('unfinished');
    const before = {...ARGS, outputDir, ...stopAt(1)};
    await bigramRun({...before, signal: AbortSignal.abort()});
    expect(saved(outputDir)).toEqual([]);
    await bigramRun({...before, ...stopAt(2)}); // nothing was saved, so nothing is lost
    const message =
      /expected no unfinished run in it, got checkpoint-2\. Pass resumeFromCheckpoint: true to resume/;
    for (const overwriteOutputDir of [false, true]) {
      await expect(bigramRun({...ARGS, outputDir, overwriteOutputDir})).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(message),
      });
    }
    expect(saved(outputDir)).toEqual(['checkpoint-2']);
    await bigramRun({
      ...ARGS,
      outputDir,
      overwriteOutputDir: true,
      resumeFromCheckpoint: false,
      ...stopAt(1),
    });
    expect(warnings).toEqual([expect.stringContaining('training removes an unfinished run: checkpoint-2')]);
    expect(saved(outputDir)).toEqual(['checkpoint-1']);
    await bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true});
    await bigramRun({...ARGS, outputDir, overwriteOutputDir: true, ...stopAt(3)}); // finished: as asked
    expect(saved(outputDir)).toEqual(['checkpoint-3']);
  });

  test('a run that resumes a finished one and stops is unfinished', async () => {
    const outputDir = pathOf('unfinished-again');
    await bigramRun({...ARGS, outputDir});
    await bigramRun({...ARGS, epochs: 3, outputDir, resumeFromCheckpoint: true, ...stopAt(14)});
    await expect(bigramRun({...ARGS, outputDir, overwriteOutputDir: true})).rejects.toThrow(
      'expected no unfinished run in it, got checkpoint-14',
    );
  });

  test('a folder of an earlier run is refused, or cleared on request', async () => {
    const outputDir = pathOf('earlier');
    await bigramRun({...ARGS, outputDir, saveSteps: 4, reportTo: 'csv'});
    await expect(bigramRun({...ARGS, outputDir})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(
        /expected no earlier run in it, got checkpoint-12\. Pass resumeFromCheckpoint: true/,
      ),
    });
    await bigramRun({...ARGS, outputDir, overwriteOutputDir: true, maxSteps: 3, saveStrategy: 'no'});
    expect(saved(outputDir)).toEqual([]);
    expect(readFileSync(join(outputDir, 'trainer_log.jsonl'), 'utf8').trim().split('\n')).toHaveLength(1);
    expect(readdirSync(outputDir)).not.toContain('trainer_log.csv');
  });

  test.each<[string, FitArgs, unknown[], RegExp]>([
    ['batch size', {batchSize: 2}, EXAMPLES, /batchSize: expected 1, got 2/],
    ['window', {gradientAccumulationSteps: 1}, EXAMPLES, /gradientAccumulationSteps: expected 2, got 1/],
    ['seed', {seed: 1}, EXAMPLES, /seed: expected 0, got 1/],
    ['data', {}, [...EXAMPLES.slice(1), {inputIds: [1, 2, 3]}], /data: expected the examples of the run/],
  ])('of another %s are refused before anything changes', async (what, args, data, message) => {
    const outputDir = pathOf(`other-${what}`);
    await bigramRun({...ARGS, outputDir});
    const run = bigramRun({...ARGS, outputDir, resumeFromCheckpoint: true, ...args}, 'adamw', data);
    await expect(run).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  test('of another optimizer are refused, and other settings cause a warning', async () => {
    const outputDir = pathOf('other-optimizer');
    await bigramRun({...ARGS, outputDir, maxSteps: 4});
    const resumed = {...ARGS, outputDir, resumeFromCheckpoint: true};
    await expect(bigramRun(resumed, 'sgd')).rejects.toThrow(/optimizer: expected AdamW, got SGD/);
    await bigramRun(resumed, 'adamw');
    expect(warnings).toEqual([expect.stringContaining('the number of steps changed')]);
  });

  test('of an optimizer that cannot be saved are refused before any work', async () => {
    const outputDir = pathOf('unsavable');
    await expect(bigramRun({...ARGS, outputDir}, 'adamax')).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/expected an optimizer whose state can be saved, got Adamax/),
    });
    const {losses} = await bigramRun(
      {...ARGS, outputDir, saveStrategy: 'no', overwriteOutputDir: true},
      'adamax',
    );
    expect(losses).toHaveLength(12);
  });

  test('the best one is kept, and loaded at the end', async () => {
    const outputDir = pathOf('best');
    const model = new BigramModel();
    const trainer = new Trainer(model);
    trainer.compile({optimizer: tf.train.sgd(1), schedule: (step) => (step < 4 ? 1 : -1)}); // climbs after step 4
    const {evaluations} = await trainer.fit(EXAMPLES, {
      epochs: 3,
      batchSize: 4,
      verbose: 0,
      outputDir,
      validationData: EXAMPLES.slice(0, 3),
      evaluationStrategy: 'steps',
      evaluationSteps: 1,
      loadBestModelAtEnd: true,
      saveTotalLimit: 1,
    });
    const steps = evaluations.slice(0, -1);
    const best = steps.reduce((a, b) => (b.loss < a.loss ? b : a));
    expect(best.step).toBe(4);
    expect(evaluations.at(-1)).toMatchObject({step: 9, loss: best.loss}); // of the weights that were loaded
    expect((await trainer.evaluate(EXAMPLES.slice(0, 3))).loss).toBe(best.loss);
    expect(saved(outputDir)).toEqual([`checkpoint-${best.step}`, 'checkpoint-9'].sort());
    const state = JSON.parse(readFileSync(join(outputDir, 'trainer_state.json'), 'utf8'));
    expect(state).toMatchObject({
      best_global_step: best.step,
      best_metric: best.loss,
      best_model_checkpoint: join(outputDir, `checkpoint-${best.step}`),
    });
    const results = JSON.parse(readFileSync(join(outputDir, 'eval_results.json'), 'utf8'));
    expect(results.eval_loss).toBe(best.loss);
    trainer.optimizer.dispose();
    model.table.dispose();
  });
});

describe('settings of checkpoints', () => {
  const outputDir = 'never made';
  const validationData = EXAMPLES;
  test.each<[FitArgs, string]>([
    [{saveSteps: 5}, 'saveSteps: expected outputDir with it'],
    [{reportTo: ['csv']}, 'reportTo: expected outputDir with it'],
    [{plotLoss: true}, 'plotLoss: expected outputDir with it'],
    [{resumeFromCheckpoint: true}, 'resumeFromCheckpoint: true: expected outputDir with it'],
    [{outputDir, saveSteps: 0}, 'saveSteps: expected a positive integer, got 0'],
    [
      {outputDir, saveStrategy: 'epochs' as 'epoch'},
      'saveStrategy: expected no, steps, epoch, best, got "epochs". Did you mean epoch?',
    ],
    [{outputDir, reportTo: 'wandb' as 'csv'}, 'reportTo: expected tensorboard, csv, got "wandb"'],
    [{evaluationStrategy: 'steps', validationData}, 'evaluationStrategy: steps: expected evaluationSteps'],
    [{earlyStoppingPatience: 2}, 'earlyStoppingPatience: expected validationData'],
    [{outputDir, loadBestModelAtEnd: true}, 'loadBestModelAtEnd: expected validationData'],
    [
      {outputDir, loadBestModelAtEnd: true, validationData},
      'got saving by steps (500) and evaluation by epoch',
    ],
    [
      {outputDir, loadBestModelAtEnd: true, validationData, saveSteps: 3, evaluationSteps: 2},
      'got saving by steps (3) and evaluation by steps (2). Make saveSteps a multiple of evaluationSteps',
    ],
    [{groupByLength: true}, 'groupByLength: expected a list of examples, got data that is not a list'],
  ])('%# are refused', async (args, message) => {
    const data = args.groupByLength ? () => EXAMPLES : EXAMPLES;
    await expect(bigramRun(args, 'adamw', data)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(message),
    });
    expect(() => readdirSync(outputDir)).toThrow('ENOENT');
  });
});

const CONFIG = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
  initializerRange: 0.3,
};

describeEachBackend('checkpoints of a Llama', () => {
  const ways: Record<string, {make: () => Llama; files: string[]}> = {
    'an adapter': {
      make: () => Llama.fromConfig(CONFIG, {seed: 3}).applyLoRA({rank: 2, dropout: 0.3, seed: 5}),
      files: ['adapter_config.json', 'adapter_model.safetensors'],
    },
    'an adapter over bfloat16': {
      make: () =>
        Llama.fromConfig(CONFIG, {seed: 3, dtype: 'bfloat16'}).applyLoRA({rank: 2, useDoRA: true, seed: 5}),
      files: ['adapter_config.json', 'adapter_model.safetensors'],
    },
    'two adapters': {
      make: () => {
        const model = Llama.fromConfig(CONFIG, {seed: 3}).applyLoRA({rank: 2, seed: 5});
        return model
          .applyLoRA({rank: 1, adapterName: 'b', targetModules: ['q_proj']})
          .setAdapter(['default', 'b']);
      },
      files: ['b', 'default', 'trained_weights.safetensors'],
    },
    'the whole model': {
      make: () => Llama.fromConfig(CONFIG, {seed: 3}),
      files: ['config.json', 'model.safetensors'],
    },
    'the norms of a bfloat16 model': {
      make: () => Llama.fromConfig(CONFIG, {seed: 3, dtype: 'bfloat16'}),
      files: ['config.json', 'model.safetensors', 'trained_weights.safetensors'],
    },
  };

  test.each(Object.keys(ways))('hold %s, exactly', async (name) => {
    const {make, files} = ways[name];
    const run = async (args: FitArgs) => {
      const model = make();
      model.compile({optimizer: 'adamw'});
      const {loss} = await model.fitDataset(EXAMPLES.slice(0, 4), {batchSize: 1, verbose: 0, ...args});
      const weights = [...model.trainableParameters().values()].map((variable) =>
        Array.from(variable.dataSync()),
      );
      model.dispose();
      return {loss, weights};
    };
    const outputDir = pathOf(`${name}-${tf.getBackend()}`);
    const whole = await run({});
    const first = await run({outputDir, ...stopAt(2)});
    const rest = await run({outputDir, resumeFromCheckpoint: true});
    expect([...first.loss, ...rest.loss]).toEqual(whole.loss);
    expect(rest.weights).toEqual(whole.weights);
    expect(readdirSync(join(outputDir, 'checkpoint-2')).sort()).toEqual(
      [...files, 'optimizer.safetensors', 'resume_state.json', 'trainer_state.json'].sort(),
    );
    for (const file of files) expect(readdirSync(outputDir)).toContain(file);
  });

  test('refuse weights of another adapter', async () => {
    const outputDir = pathOf(`other-adapter-${tf.getBackend()}`);
    const model = Llama.fromConfig(CONFIG, {seed: 3}).applyLoRA({rank: 2});
    await model.fitDataset(EXAMPLES.slice(0, 2), {batchSize: 1, verbose: 0, outputDir});
    const other = Llama.fromConfig(CONFIG, {seed: 3}).applyLoRA({rank: 3});
    const args = {batchSize: 1, verbose: 0, outputDir, resumeFromCheckpoint: true};
    await expect(other.fitDataset(EXAMPLES.slice(0, 2), args)).rejects.toMatchObject({
      code: 'SHAPE_MISMATCH',
      message: expect.stringMatching(/lora_A\.weight: expected \[3,16\] as in the model, got \[2,16\]/),
    });
    for (const used of [model, other]) used.dispose();
  });

  test('leave no tensor behind, saving, resuming and loading the best', async () => {
    let run = 0;
    await expectNoLeak(async () => {
      const outputDir = pathOf(`leak-${tf.getBackend()}-${run++}`);
      for (const args of [stopAt(3), {}]) {
        const model = Llama.fromConfig(CONFIG, {seed: 3}).applyLoRA({rank: 2});
        model.compile({optimizer: 'adamw'});
        await model.fitDataset(EXAMPLES.slice(0, 5), {
          batchSize: 1,
          verbose: 0,
          outputDir,
          validationData: EXAMPLES.slice(0, 1),
          evaluationSteps: 1,
          loadBestModelAtEnd: true,
          resumeFromCheckpoint: true,
          ...args,
        });
        model.dispose();
      }
    });
  });
});
