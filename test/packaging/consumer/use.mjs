// An ES module in a project that installed the tarball. Prints the report that pack.test.ts checks.

import * as root from 'tfjs-lora';
import * as browser from 'tfjs-lora/browser';
import * as chat from 'tfjs-lora/chat';
import * as data from 'tfjs-lora/data';
import * as evaluation from 'tfjs-lora/evaluation';
import * as layers from 'tfjs-lora/layers';
import * as metrics from 'tfjs-lora/metrics';
import * as models from 'tfjs-lora/models';
import * as notebook from 'tfjs-lora/notebook';
import * as optimizers from 'tfjs-lora/optimizers';
import * as plots from 'tfjs-lora/plots';
import * as quant from 'tfjs-lora/quant';
import * as recipes from 'tfjs-lora/recipes';
import * as serve from 'tfjs-lora/serve';
import {report} from './report.cjs';

const around = {browser, data, optimizers, plots, notebook, metrics, evaluation, chat, serve, recipes};
console.log(JSON.stringify(await report({root, ...around, models, layers, quant})));
