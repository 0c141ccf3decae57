#!/usr/bin/env node
// npm links this file, which a checkout has before it is built, so that `npx tfjs-lora` works there after a build.
import {existsSync} from 'node:fs';

const program = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(program)) {
  await import(program.href);
} else {
  console.error('tfjs-lora: expected a built checkout, got no dist/cli/main.js. Run npm run build, once.');
  process.exitCode = 2;
}
