// An ES module in a project that installed the tarball. Prints what pack.test.ts expects.

import * as root from 'tfjs-lora';
import * as layers from 'tfjs-lora/layers';
import * as models from 'tfjs-lora/models';
import * as quant from 'tfjs-lora/quant';
import {report} from './report.cjs';

console.log(JSON.stringify(await report({root, models, layers, quant})));
