// Hides the advertisement for tfjs-node that TensorFlow.js prints in each Node process with its CPU backend, and this
// library's warning that the backend was not chosen.
const HIDDEN =
  /Hi, looks like you are running TensorFlow.js in Node.js|^backend: expected a choice before a model/;
const {warn} = console;
console.warn = (...args) => {
  if (!HIDDEN.test(String(args[0]))) warn.apply(console, args);
};
