import {existsSync} from 'node:fs';
import {join, resolve} from 'node:path';

/** The parts of node-llama-cpp's native module that the tests use. */
interface NativeModule {
  AddonModel: new (path: string, options: object) => NativeModel;
  AddonModelLora: new (model: NativeModel, path: string) => object;
  AddonContext: new (model: NativeModel, options: object) => NativeContext;
  AddonSampler: new (model: NativeModel) => {applyConfig(config: {temperature: number}): void};
  setLogger(logger: (level: number, message: string) => void): void;
  setLoggerLogLevel(level: number): void;
  loadBackends(folder: string): void;
  init(): Promise<void>;
}

interface NativeModel {
  init(): Promise<boolean>;
  loadLora(lora: object): Promise<void>;
  tokenize(text: string, parseSpecial: boolean): Uint32Array;
  tokenBos(): number;
  tokenEos(): number;
  isEogToken(id: number): boolean;
  shouldPrependBosToken(): boolean;
  dispose(): Promise<void>;
}

interface NativeContext {
  init(): Promise<boolean>;
  initBatch(size: number): void;
  addToBatch(sequence: number, position: number, ids: Uint32Array, logitsAt: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  sampleToken(index: number, sampler: object): Promise<number>;
  setLoras(loras: object[], scales: number[]): void;
  disposeSequence(sequence: number): void;
  dispose(): Promise<void>;
}

const PLATFORM = `${process.platform}-${process.arch}`;
/** Folder of llama.cpp's libraries below the checkout, if the package has some for the platform. */
const FOLDER = resolve('node_modules/@node-llama-cpp', PLATFORM, 'bins', PLATFORM);

/** Whether llama.cpp is installed. */
export const hasLlamaCpp = existsSync(FOLDER);

let loaded: Promise<NativeModule> | undefined;

async function load(): Promise<NativeModule> {
  const module: NativeModule = require(join(FOLDER, 'llama-addon.node'));
  module.setLogger(() => {});
  module.setLoggerLogLevel(0);
  module.loadBackends(FOLDER);
  await module.init();
  return module;
}

/** A GGUF file that llama.cpp has loaded. */
export class LlamaCppModel {
  private constructor(
    private readonly native: NativeModule,
    readonly model: NativeModel,
    private readonly context: NativeContext,
  ) {}

  /** @param adapters GGUF files of adapters, which are added with their own scales */
  static async load(path: string, adapters: string[] = []): Promise<LlamaCppModel> {
    loaded ??= load();
    const native = await loaded;
    const model = new native.AddonModel(path, {gpuLayers: 0, useMmap: false, addonExports: native});
    if (!(await model.init())) throw new Error(`llama.cpp cannot load ${path}`);
    const loras: object[] = [];
    for (const adapter of adapters) {
      const lora = new native.AddonModelLora(model, adapter);
      await model.loadLora(lora);
      loras.push(lora);
    }
    const context = new native.AddonContext(model, {
      contextSize: 256,
      batchSize: 256,
      sequences: 1,
      threads: 1,
      flashAttention: false,
    });
    if (!(await context.init())) throw new Error(`llama.cpp cannot run ${path}`);
    if (loras.length > 0)
      context.setLoras(
        loras,
        loras.map(() => 1),
      );
    return new LlamaCppModel(native, model, context);
  }

  /** Continues a prompt with the likeliest tokens. */
  async greedy(prompt: readonly number[], count: number): Promise<number[]> {
    const sampler = new this.native.AddonSampler(this.model);
    sampler.applyConfig({temperature: 0});
    const ids: number[] = [];
    for (let next = [...prompt], position = 0; ids.length < count; next = ids.slice(-1)) {
      this.context.initBatch(next.length);
      const [index] = this.context.addToBatch(
        0,
        position,
        Uint32Array.from(next),
        Uint32Array.of(next.length - 1),
      );
      await this.context.decodeBatch();
      ids.push(await this.context.sampleToken(index, sampler));
      position += next.length;
    }
    this.context.disposeSequence(0);
    return ids;
  }

  async dispose(): Promise<void> {
    await this.context.dispose();
    await this.model.dispose();
  }
}
