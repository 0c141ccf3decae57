// TensorFlow.js greets each process that runs its CPU backend in Node with an advertisement for tfjs-node.
const BANNER = 'Hi, looks like you are running TensorFlow.js in Node.js';
const {warn} = console;
console.warn = (...args) => {
  if (!String(args[0]).includes(BANNER)) warn.apply(console, args);
};
