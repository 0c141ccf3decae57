#!/usr/bin/env node
import {endWithReader} from './endWithReader.ts';
import {runCli} from './runCli.ts';

endWithReader();
void runCli(process.argv.slice(2)).then((status) => {
  process.exitCode = status;
});
