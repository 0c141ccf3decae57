import type {BackendName} from '../../training/backends/useBackend.ts';

/** What every command takes besides its own options: `command.optsWithGlobals<CommonOptions>()`. */
export interface CommonOptions {
  /** Show the stack of an error. */
  debug: boolean;
  backend: 'auto' | BackendName;
}
