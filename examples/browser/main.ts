/// <reference types="vite/client" />
import type {BackendName} from 'tfjs-lora';
import {type DownloadProgress, TaskWorker} from 'tfjs-lora/browser';
import {type AlpacaRecord, billRecords} from '../quickstart/billGenerator.ts';
import {drawLoss} from './lossPlot.ts';
import type {Settings, StoredRun, Tasks, TrainingReport} from './trainingWorker.ts';

/* Shows what trainingWorker.ts does, and asks it for more. Nothing is computed here, so the page stays responsive. */

const element = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const form = element<HTMLFormElement>('settings');
const trying = element<HTMLFormElement>('try');
const [save, resume, stop] = ['save', 'resume', 'stop'].map((id) => element<HTMLButtonElement>(id));
const load = element<HTMLInputElement>('load');
const show = (id: string, text: string) => {
  element(id).textContent = text;
};

/** The unseen bills, the length of answers, and other settings without a field. Slow machine: `?samples=1&tokens=20`. */
const address = new URLSearchParams(location.search);
const samples = billRecords('heldOut', Number(address.get('samples') ?? 3));
const maxNewTokens = Number(address.get('tokens') ?? 80);
const bills = Number(address.get('bills') ?? 600);
const saveSteps = Number(address.get('save') ?? 10);

const worker = new Worker(new URL('./trainingWorker.ts', import.meta.url), {type: 'module'});
const training = new TaskWorker<Tasks>(worker);
let [isOpen, hasAdapter] = [false, false];
let stored: StoredRun | undefined;
let stopping: AbortController | undefined;
/** The plotted losses, and the number of steps. */
let [losses, steps]: [number[], number] = [[], 0];

// The address sets the fields of the form: `?backend=wasm&steps=20`.
for (const [name, value] of address) {
  const field = form.elements.namedItem(name);
  if (field instanceof HTMLInputElement || field instanceof HTMLSelectElement) field.value = value;
}

async function start(): Promise<void> {
  void navigator.storage?.persist?.(); // asks the browser not to clear the storage when the disk fills up
  const opened = await training.run(
    'open',
    {
      backend: setting('backend') as 'auto' | BackendName,
      modelUrl: new URL('.', location.href).href,
      runName: address.get('run') ?? 'latest',
    },
    {onReport: showDownload},
  );
  const names = {webgpu: 'WebGPU', wasm: 'WebAssembly', cpu: 'plain JavaScript', tensorflow: 'TensorFlow'};
  const device = opened.backend === 'webgpu' ? ` on ${opened.device}` : '';
  show('backend', `${names[opened.backend]}${device}: ${opened.features.join(', ')}`);
  element('backend').title = opened.text;
  show('activity', '');
  isOpen = true;
  showStored(opened.run);
  showSamples();
  await writeSamples('before');
}

function showDownload({file, bytes, total}: DownloadProgress): void {
  const share = total ? `${Math.round((100 * bytes) / total)} %` : `${Math.round(bytes / 1024)} KiB`;
  show('activity', `storing ${file}: ${share}`);
}

async function train(settings: Settings, isResumed: boolean): Promise<void> {
  steps = settings.steps;
  losses = isResumed ? [...(stored?.losses ?? [])] : [];
  stopping = new AbortController();
  stop.hidden = false;
  show('activity', isResumed ? 'resuming…' : 'preparing examples…');
  try {
    showStored(
      await training.run('train', {settings, isResumed}, {signal: stopping.signal, onReport: showTraining}),
    );
  } finally {
    stop.hidden = true;
    show('activity', '');
  }
  hasAdapter = true;
  show('adapter-note', '');
  await writeSamples('after');
}

function showTraining(report: TrainingReport): void {
  if ('compiled' in report) {
    show('activity', `compiling shaders: ${report.compiled} of ${report.total}`);
    return;
  }
  const {step, loss, tokensPerSecond, secondsLeft = 0} = report.step;
  losses = [...losses.slice(0, step - 1), loss]; // a resumed training repeats the steps after its checkpoint
  show('activity', `training; a checkpoint is saved every ${saveSteps} steps`);
  show('step', `${step} of ${steps}`);
  show('loss', loss.toFixed(3));
  show('pace', Math.round(tokensPerSecond).toLocaleString('en'));
  show('left', step < steps ? `${Math.ceil(secondsLeft)} s` : 'done');
  element<HTMLProgressElement>('progress').value = step / steps;
  plot();
}

/** Offers to resume the training in the storage. */
function showStored(run: StoredRun | undefined): void {
  stored = run;
  resume.hidden = !run;
  if (!run) return;
  resume.textContent = run.isFinished
    ? 'Restore the last adapter'
    : `Resume after step ${run.losses.length} of ${run.settings.steps}`;
}

/** Downloads the adapter's files. */
async function saveAdapter(): Promise<void> {
  const files = await training.run('saveAdapter', undefined as never);
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
  await training.run('loadAdapter', files);
  hasAdapter = true;
  show('adapter-note', `loaded ${files.map(({name}) => name).join(' and ')}`);
  await writeSamples('after');
}

const messageOf = ({instruction, input}: AlpacaRecord) => `${instruction}\n${input}`;

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
    await write({message: messageOf(record)}, places[i]);
    places[i].dataset.isExact = String(places[i].textContent === record.output);
  }
}

/** Writes an answer to the reader's text, or continues it. */
async function answer(task: string, text: string): Promise<void> {
  show('answer', '');
  const [{instruction}] = billRecords('heldOut', 1);
  await write(task === 'continue' ? {text} : {message: `${instruction}\n${text}`}, element('answer'));
}

const write = (prompt: {message?: string; text?: string}, place: HTMLElement) =>
  training.run('write', {...prompt, maxNewTokens}, {onReport: (piece) => place.append(piece)});

const setting = (name: string) =>
  (form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement).value;

function settings(): Settings {
  const [steps, rank, batch] = ['steps', 'rank', 'batch'].map((name) => Number(setting(name)));
  const text = setting('data') === 'own' ? {text: setting('text')} : {};
  return {steps, rank, batch, bills, saveSteps, ...text};
}

const plot = () => drawLoss(element<SVGElement>('plot'), losses, steps || Number(setting('steps')));

/** Runs one task at a time, and shows its errors beside the place where it was started. */
async function run(state: string, place: string, work: () => Promise<void>): Promise<void> {
  const {dataset} = document.body;
  dataset.state = state;
  for (const error of document.querySelectorAll<HTMLElement>('.error')) error.hidden = true;
  const controls = [...document.querySelectorAll<HTMLInputElement>('input, select, textarea, button')];
  for (const control of controls) control.disabled = control !== (stop as HTMLElement);
  try {
    await work();
    dataset.state = 'ready';
  } catch (error) {
    const shown = document.querySelector<HTMLElement>(`${place} .error`)!;
    shown.textContent = (error as Error).message;
    shown.hidden = false;
    dataset.state = 'failed';
  }
  for (const control of controls) control.disabled = !isOpen;
  save.disabled = !hasAdapter;
  (form.elements.namedItem('backend') as HTMLSelectElement).disabled = false;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  void run('training', '#training', () => train(settings(), false));
});
form.addEventListener('change', ({target}) => {
  element('own').hidden = setting('data') !== 'own';
  if ((target as HTMLInputElement).name !== 'backend') return;
  address.set('backend', setting('backend'));
  location.search = String(address); // a tab uses one backend only
});
resume.addEventListener(
  'click',
  () => void run('training', '#training', () => train(stored!.settings, true)),
);
stop.addEventListener('click', () => stopping?.abort());
trying.addEventListener('submit', (event) => {
  event.preventDefault();
  const {value} = event.submitter as HTMLButtonElement;
  const {value: text} = trying.elements.namedItem('text') as HTMLTextAreaElement;
  void run('writing', '#trying', () => answer(value, text));
});
save.addEventListener('click', () => void run('saving', '#adapter', saveAdapter));
load.addEventListener('change', () => void run('loading', '#adapter', loadAdapter));
new ResizeObserver(plot).observe(element('plot')); // also draws it for the first time
void run('loading', 'header', start);
