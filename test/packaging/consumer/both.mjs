// Uses the ES module and the CommonJS build in one process, one after the other. Prints the report of each.
import {createRequire} from 'node:module';

await import('./use.mjs');
createRequire(import.meta.url)('./use.cjs');
