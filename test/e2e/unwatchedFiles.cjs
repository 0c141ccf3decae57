// Keeps tslab from watching files: `node --require unwatchedFiles.cjs tslab …`.
//
// tslab compiles cells by TypeScript's watch mode, and takes each change of a file that was imported, those of
// node_modules and dist/ included, for a cell to be compiled: the second one while a cell runs ends that cell with
// "Unexpected pending rebuildTimer". A notebook that is executed from top to bottom needs no watching.

const tslabs = {paths: [require.resolve('tslab/package.json')]};
const {sys} = require(require.resolve('@tslab/typescript-for-tslab', tslabs));
const unwatched = () => ({close() {}});
sys.watchFile = unwatched;
sys.watchDirectory = unwatched;
