// A CommonJS file in a project that installed the tarball. Prints what pack.test.ts expects.
const {report} = require('./report.cjs');

report({
  root: require('tfjs-lora'),
  models: require('tfjs-lora/models'),
  layers: require('tfjs-lora/layers'),
  quant: require('tfjs-lora/quant'),
}).then((result) => console.log(JSON.stringify(result)));
