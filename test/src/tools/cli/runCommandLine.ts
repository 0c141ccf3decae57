import {runCli} from '../../../../src/tools/cli/runCli.ts';

/** Runs `body` and collects its output. */
export async function printedBy<R>(
  body: () => R | Promise<R>,
): Promise<{result: R; out: string; err: string}> {
  const out: string[] = [];
  const err: string[] = [];
  const into = (lines: string[], end: string) => (text: unknown) => {
    lines.push(`${text}${end}`);
    return true;
  };
  const spies = [
    jest.spyOn(console, 'log').mockImplementation(into(out, '\n')),
    jest.spyOn(console, 'error').mockImplementation(into(err, '\n')),
    jest.spyOn(process.stdout, 'write').mockImplementation(into(out, '')),
    jest.spyOn(process.stderr, 'write').mockImplementation(into(err, '')),
  ];
  try {
    const result = await body();
    return {result, out: out.join(''), err: err.join('')};
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** Runs a command line in this process and returns its status and output. */
export async function runCommandLine(...args: string[]): Promise<{status: number; out: string; err: string}> {
  const {result: status, ...printed} = await printedBy(() => runCli(args));
  return {status, ...printed};
}
