// Keeps tslab from watching files: `node --require unwatchedFiles.cjs tslab …`.
//
// tslab compiles cells in TypeScript's watch mode, and treats each change of an imported file, even in node_modules and
// dist/, as a cell to compile. The second change while a cell runs ends that cell with "Unexpected pending
// rebuildTimer". A notebook that is executed from top to bottom needs no watching.

const tslabs = {paths: [require.resolve('tslab/package.json')]};
const {sys} = require(require.resolve('@tslab/typescript-for-tslab', tslabs));
const unwatched = () => ({close() {}});
sys.watchFile = unwatched;
sys.watchDirectory = unwatched;
