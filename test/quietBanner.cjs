// Hides the advertisement for tfjs-node that TensorFlow.js prints in each Node process with its CPU backend, and this
// library's warnings that the backend was not chosen, and that WebGPU has only a software driver.
const HIDDEN =
  /Hi, looks like you are running TensorFlow.js in Node.js|^backend: expected a choice before a model|^backend webgpu \(.*a software driver/;
const {warn} = console;
console.warn = (...args) => {
  if (!HIDDEN.test(String(args[0]))) warn.apply(console, args);
};
