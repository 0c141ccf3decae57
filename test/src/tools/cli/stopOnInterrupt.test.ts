import {commandWith} from '../../../../src/tools/cli/commandWith.ts';
import {stopOnInterrupt} from '../../../../src/tools/cli/stopOnInterrupt.ts';
import {printedBy} from './runCommandLine.ts';

describe('stopOnInterrupt', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'the first %s requests a stop, and the second ends the process',
    async (name) => {
      let time = 0;
      const kill = jest.spyOn(process, 'kill').mockReturnValue(true);
      const interrupt = stopOnInterrupt(() => time);
      try {
        const {err} = await printedBy(() => {
          process.emit(name, name);
          time = 300; // npm forwards the signal
          process.emit(name, name);
        });
        expect(err).toBe('Stopping after this step, then saving. Press Ctrl-C again to end immediately.\n');
        expect(interrupt.signal.aborted).toBe(true);
        expect(kill).not.toHaveBeenCalled();
        time = 2000;
        process.emit(name, name);
        expect(kill).toHaveBeenCalledWith(process.pid, name);
        expect(process.listenerCount(name)).toBe(0); // so that it ends the process
      } finally {
        interrupt.release();
        kill.mockRestore();
      }
    },
  );

  test('a closed terminal does not end the process', () => {
    const interrupt = stopOnInterrupt();
    expect(() => process.stderr.emit('error', new Error('EIO'))).not.toThrow();
    interrupt.release();
  });
});

describe('a command to type again', () => {
  const {npm_command} = process.env;
  afterEach(() => {
    if (npm_command === undefined) delete process.env.npm_command;
    else process.env.npm_command = npm_command;
  });

  test('replaces the values of the same keys, and quotes words for a shell', () => {
    process.env.npm_command = 'run-script';
    const args = ['--backend', 'wasm', 'train', 'my recipe.yaml', 'a=1', 'lora_rank=4', '--dry-run', "b='x'"];
    expect(commandWith(args, 'a=2', 'c=3')).toBe(
      `tfjs-lora --backend wasm train 'my recipe.yaml' lora_rank=4 'b='\\''x'\\''' a=2 c=3`,
    );
    expect(commandWith(['train', 'r.yaml'])).toBe('tfjs-lora train r.yaml');
  });

  test('starts as the program was started', () => {
    process.env.npm_command = 'exec';
    expect(commandWith(['train', 'r.yaml'])).toBe('npx tfjs-lora train r.yaml');
  });
});
