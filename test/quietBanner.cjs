// Hides the advertisement for tfjs-node that TensorFlow.js prints in each Node process with its CPU backend.
const BANNER = 'Hi, looks like you are running TensorFlow.js in Node.js';
const {warn} = console;
console.warn = (...args) => {
  if (!String(args[0]).includes(BANNER)) warn.apply(console, args);
};
