import {execFile} from 'node:child_process';
import {readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import * as os from 'node:os';
import {join} from 'node:path';
import {promisify} from 'node:util';
import {type Command, Option} from 'commander';
import packageJson from '../../../../package.json';
import {counted} from '../../../../quant/counted.ts';
import {BACKEND_NAMES, type BackendName, useBackend} from '../../../training/backends/useBackend.ts';
import type {CommonOptions} from '../commandOptions.ts';
import {withExamples} from '../withExamples.ts';

/** The result of trying a backend in a separate process. */
interface Finding {
  /** The backend that was tried, or the one that `auto` chose. */
  backend: 'auto' | BackendName;
  available: boolean;
  /** Device and features, or the error. */
  text: string;
}

export function register(program: Command): void {
  const doctor = program
    .command('doctor')
    .description('Show what works on this machine: Node, memory, every backend, optional packages.')
    .option('--json', 'print JSON', false)
    .addOption(new Option('--probe', 'try --backend in this process').default(false).hideHelp())
    .action(async (_options: unknown, command: Command) => {
      const {backend, probe, json} = command.optsWithGlobals<
        CommonOptions & {probe: boolean; json: boolean}
      >();
      if (probe) {
        console.log(JSON.stringify(await findingOf(backend)));
        return;
      }
      const report = await examine();
      console.log(json ? JSON.stringify(report, null, 2) : format(report));
    });
  withExamples(
    doctor,
    ['tfjs-lora doctor', 'show what works'],
    ['tfjs-lora doctor --json', 'print it as JSON, for a bug report'],
  );
}

type Report = Awaited<ReturnType<typeof examine>>;

async function examine() {
  const [chosen, ...findings] = await Promise.all(['auto' as const, ...BACKEND_NAMES].map(probeApart));
  const packages = Object.keys({...packageJson.peerDependencies, ...packageJson.optionalDependencies}).sort();
  const versions = packages.map(async (name) => [name, (await installedVersion(name)) ?? null] as const);
  return {
    version: packageJson.version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: `${os.cpus()[0]?.model.trim() || os.arch()}, ${counted(os.availableParallelism(), 'thread')}`,
    memoryBytes: os.totalmem(),
    freeMemoryBytes: os.freemem(),
    backends: findings,
    chosen: chosen.available ? chosen.backend : null,
    packages: Object.fromEntries(await Promise.all(versions)),
  };
}

/** Tries a backend in a separate process, so that a crash in a native library does not end the report. */
async function probeApart(backend: 'auto' | BackendName): Promise<Finding> {
  const args = [...process.execArgv, process.argv[1], 'doctor', '--probe', '--backend', backend];
  try {
    const {stdout} = await promisify(execFile)(process.execPath, args, {
      timeout: 120_000,
      maxBuffer: 1 << 24,
    });
    return JSON.parse(stdout.trim().split('\n').at(-1) as string) as Finding;
  } catch (error) {
    const {signal, code, stderr = ''} = error as {signal?: string; code?: number; stderr?: string};
    const last = stderr.trim().split('\n').at(-1);
    return {
      backend,
      available: false,
      text: `crashed (${signal ?? `status ${code}`}): ${last || 'no message'}`,
    };
  }
}

async function findingOf(name: 'auto' | BackendName): Promise<Finding> {
  try {
    const {backend, device, features} = await useBackend(name);
    return {backend, available: true, text: [device, ...features].join(', ')};
  } catch (error) {
    return {backend: name, available: false, text: (error as Error).message};
  }
}

function format(report: Report): string {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  const rows = [
    ['tfjs-lora', report.version],
    ['Node', `${report.node}, ${report.platform}`],
    ['processor', report.processor],
    ['memory', `${gigabytes(report.memoryBytes)}, ${gigabytes(report.freeMemoryBytes)} free`],
    ...report.backends.map(({backend, available, text}) => [
      `backend ${backend}`,
      `${available ? 'works' : 'does not work'}: ${text}`,
    ]),
    ['auto chooses', report.chosen ?? 'none: no backend works on this machine'],
    ...Object.entries(report.packages).map(([name, version]) => [name, version ?? 'not installed']),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, text]) => `${name.padEnd(width)}  ${text}`).join('\n');
}

/** Returns the version of an installed package, or undefined if it is not installed. */
async function installedVersion(name: string): Promise<string | undefined> {
  const {resolve} = createRequire(import.meta.url);
  for (const folder of resolve.paths(name) ?? []) {
    const json = await readFile(join(folder, name, 'package.json'), 'utf8').catch(() => undefined);
    if (json !== undefined) return (JSON.parse(json) as {version: string}).version;
  }
  return undefined;
}
