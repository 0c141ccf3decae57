// The ES module and the CommonJS build in one process, one after the other. Prints what each of them does.
import {createRequire} from 'node:module';

await import('./use.mjs');
createRequire(import.meta.url)('./use.cjs');
