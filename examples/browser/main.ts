/// <reference types="vite/client" />
import plainWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url';
import simdWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import threadedWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm?url';
import {
  AdamW,
  AutoModelForCausalLM,
  type BackendName,
  type Example,
  type Tokenizer,
  type TrainableCausalLM,
  useBackend,
} from 'tfjs-lora';
import {type AlpacaRecord, billRecords} from '../quickstart/billGenerator.ts';
import {drawLoss} from './lossPlot.ts';

/*
 * Fine-tunes the quickstart's model in the tab. Everything except the page itself is done by `tfjs-lora`: useBackend,
 * AutoModelForCausalLM, applyLoRA, fitDataset, generate, saveAdapter, loadAdapter.
 */

const element = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const form = element<HTMLFormElement>('settings');
const [save, load, stop] = [
  element<HTMLButtonElement>('save'),
  element<HTMLInputElement>('load'),
  element<HTMLButtonElement>('stop'),
];
const show = (id: string, text: string) => {
  element(id).textContent = text;
};

/**
 * The unseen bills, the length of summaries, and the number of training bills. Slow machine: `?samples=1&tokens=20`.
 */
const address = new URLSearchParams(location.search);
const samples = billRecords('heldOut', Number(address.get('samples') ?? 3));
const maxNewTokens = Number(address.get('tokens') ?? 80);
const bills = Number(address.get('bills') ?? 600);

let model: TrainableCausalLM;
let stopping: AbortController | undefined;
/** The plotted losses, and the number of steps. */
let [losses, steps]: [number[], number] = [[], 0];

// The address sets the fields of the form: `?backend=wasm&steps=20`.
for (const [name, value] of address) {
  const field = form.elements.namedItem(name);
  if (field instanceof HTMLInputElement || field instanceof HTMLSelectElement) field.value = value;
}

async function start(): Promise<void> {
  const report = await useBackend(setting('backend') as 'auto' | BackendName, {
    wasmPaths: {
      'tfjs-backend-wasm.wasm': plainWasm,
      'tfjs-backend-wasm-simd.wasm': simdWasm,
      'tfjs-backend-wasm-threaded-simd.wasm': threadedWasm,
    },
  });
  const names = {webgpu: 'WebGPU', wasm: 'WebAssembly', cpu: 'plain JavaScript', tensorflow: 'TensorFlow'};
  const device = report.backend === 'webgpu' ? ` on ${report.device}` : '';
  show('backend', `${names[report.backend]}${device}: ${report.features.join(', ')}`);
  element('backend').title = String(report);
  model = await AutoModelForCausalLM.fromPretrained(new URL('.', location.href));
  model.gradientCheckpointing = false; // so small a model need not save memory
  showSamples();
  await writeSamples('before');
}

async function train(): Promise<void> {
  [losses, steps] = [[], Number(setting('steps'))];
  const batchSize = Number(setting('batch'));
  const rank = Number(setting('rank'));
  if (model.adapterNames.includes('default')) model.deleteAdapter('default');
  model.applyLoRA({rank, alpha: 2 * rank, seed: 0});
  model.compile({
    optimizer: new AdamW({learningRate: 1e-2, weightDecay: 0}),
    schedule: {name: 'cosine', warmupSteps: Math.min(10, Math.floor(steps / 4))},
    maxGradNorm: 1,
  });
  const examples = billRecords('train', bills).map(exampleOf);
  stopping = new AbortController();
  stop.hidden = false;
  try {
    await model.fitDataset(examples, {
      epochs: Math.ceil((steps * batchSize) / examples.length),
      maxSteps: steps,
      batchSize,
      signal: stopping.signal,
      callbacks: {
        onStepEnd: ({step, loss, tokensPerSecond, secondsLeft = 0}) => {
          losses.push(loss);
          show('step', `${step} of ${steps}`);
          show('loss', loss.toFixed(3));
          show('pace', Math.round(tokensPerSecond).toLocaleString('en'));
          show('left', step < steps ? `${Math.ceil(secondsLeft)} s` : 'done');
          element<HTMLProgressElement>('progress').value = step / steps;
          plot();
        },
      },
    });
  } finally {
    stop.hidden = true;
    model.optimizer.dispose();
  }
  show('adapter-note', '');
  await writeSamples('after');
}

/** Downloads the adapter's files. */
async function saveAdapter(): Promise<void> {
  const files = new Map<string, Blob>();
  await model.saveAdapter(files);
  for (const [name, blob] of files) {
    const link = Object.assign(document.createElement('a'), {
      href: URL.createObjectURL(blob),
      download: name,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  show('adapter-note', `${[...files.keys()].join(' and ')} saved`);
}

async function loadAdapter(): Promise<void> {
  const files = [...(load.files ?? [])];
  load.value = ''; // so that the same files can be chosen again
  const had = model.adapterNames.includes('default');
  await model.loadAdapter(files, {adapterName: had ? 'loaded' : 'default'});
  if (had) model.deleteAdapter('default');
  show('adapter-note', `loaded ${files.map(({name}) => name).join(' and ')}`);
  await writeSamples('after');
}

/** Encodes the conversation up to the assistant's turn. */
function promptOf({instruction, input}: AlpacaRecord): number[] {
  const messages = [{role: 'user', content: `${instruction}\n${input}`}];
  return (model.tokenizer as Tokenizer).encodeChat(messages, {addGenerationPrompt: true});
}

/** Makes a training example in which only the answer counts. */
function exampleOf(record: AlpacaRecord): Example {
  const prompt = promptOf(record);
  const answer = (model.tokenizer as Tokenizer).encode(`${record.output}<|eot_id|>`, {
    addSpecialTokens: false,
  });
  return {inputIds: [...prompt, ...answer], labels: [...prompt.map(() => -100), ...answer]};
}

function showSamples(): void {
  element('samples').replaceChildren(
    ...samples.map(({input, output}) => {
      const sample = document.createElement('div');
      sample.className = 'sample';
      sample.innerHTML =
        '<details><summary></summary><pre></pre></details><dl><dt>reference</dt><dd></dd>' +
        '<dt>before</dt><dd class="before">–</dd><dt>after</dt><dd class="after">–</dd></dl>';
      const [title, ...sections] = input.split('\n');
      sample.querySelector('summary')!.textContent = title;
      sample.querySelector('pre')!.textContent = sections.join('\n');
      sample.querySelector('dd')!.textContent = output;
      return sample;
    }),
  );
}

/** Summarises each sample with the model and shows the words as they are generated. */
async function writeSamples(when: 'before' | 'after'): Promise<void> {
  const places = [...document.querySelectorAll<HTMLElement>(`.sample .${when}`)];
  for (const place of places) {
    place.textContent = '';
    delete place.dataset.isExact;
  }
  for (const [i, record] of samples.entries()) {
    for await (const piece of model.stream(promptOf(record), {maxNewTokens, doSample: false})) {
      places[i].textContent += piece;
    }
    places[i].dataset.isExact = String(places[i].textContent === record.output);
  }
}

const setting = (name: string) =>
  (form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement).value;

const plot = () => drawLoss(element<SVGElement>('plot'), losses, steps || Number(setting('steps')));

/** Runs one task at a time, and shows its errors on the page. */
async function run(state: string, work: () => Promise<void>): Promise<void> {
  const {dataset} = document.body;
  dataset.state = state;
  element('error').hidden = true;
  const controls = [...form.querySelectorAll<HTMLButtonElement>('input, select, [type=submit]'), save, load];
  for (const control of controls) control.disabled = true;
  try {
    await work();
    dataset.state = 'ready';
  } catch (error) {
    element('error').hidden = false;
    show('error', (error as Error).message);
    dataset.state = 'failed';
  }
  for (const control of controls) control.disabled = !model;
  save.disabled = !model?.adapterNames.length;
  (form.elements.namedItem('backend') as HTMLSelectElement).disabled = false;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  void run('training', train);
});
form.addEventListener('change', ({target}) => {
  if ((target as HTMLInputElement).name !== 'backend') return;
  location.search = String(new URLSearchParams({backend: setting('backend')})); // a tab uses one backend only
});
new ResizeObserver(plot).observe(element('plot')); // also draws it for the first time
stop.addEventListener('click', () => stopping?.abort());
save.addEventListener('click', () => void run('saving', saveAdapter));
load.addEventListener('change', () => void run('loading', loadAdapter));
void run('loading', start);
