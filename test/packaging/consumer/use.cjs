// A CommonJS file in a project that installed the tarball. Prints the report that pack.test.ts checks.
const {report} = require('./report.cjs');

report({
  root: require('tfjs-lora'),
  data: require('tfjs-lora/data'),
  optimizers: require('tfjs-lora/optimizers'),
  plots: require('tfjs-lora/plots'),
  notebook: require('tfjs-lora/notebook'),
  metrics: require('tfjs-lora/metrics'),
  evaluation: require('tfjs-lora/evaluation'),
  chat: require('tfjs-lora/chat'),
  serve: require('tfjs-lora/serve'),
  browser: require('tfjs-lora/browser'),
  recipes: require('tfjs-lora/recipes'),
  models: require('tfjs-lora/models'),
  layers: require('tfjs-lora/layers'),
  quant: require('tfjs-lora/quant'),
}).then((result) => console.log(JSON.stringify(result)));
