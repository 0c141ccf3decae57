import {resolveModelFolder} from '../../../../src/data/hub/resolveModelFolder.ts';

/* Downloads a model in a separate process: `download.ts ENDPOINT CACHE ID`. */

const [endpoint, cacheDir, id] = process.argv.slice(2);
process.stdout.write('started\n');
resolveModelFolder(id, {endpoint, cacheDir, retryDelay: 1}).then(
  (folder) => process.stdout.write(`${folder}\n`),
  (error) => {
    process.stderr.write(`${error.code}: ${error.message}\n`);
    process.exitCode = 1;
  },
);
