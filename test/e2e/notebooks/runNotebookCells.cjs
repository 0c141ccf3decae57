// Executes a notebook's code cells with tslab alone, if there is no Jupyter to start it as a kernel:
//
//     node runNotebookCells.cjs executed.ipynb < notebook.ipynb
//
// The same tslab compiles and runs the cells and collects their output; only the messages between Jupyter and its
// kernel are missing. It stops at the first cell that fails. tslab has no public API for this, so its version is pinned
// in package.json.

const {readFileSync, writeFileSync} = require('node:fs');
const {createConverter} = require('tslab/dist/converter.js');
const {createExecutor} = require('tslab/dist/executor.js');
const {JupyterHandlerImpl} = require('tslab/dist/jupyter.js');

const notebook = JSON.parse(readFileSync(0, 'utf8'));
const converter = createConverter({isJS: false, isBrowser: false});
const converters = {node: converter, close: () => converter.close()};
const handler = new JupyterHandlerImpl(createExecutor(process.cwd(), converters, console), false);

async function execute(cell) {
  cell.outputs = [];
  const writeStream = (name, text) => {
    const last = cell.outputs.at(-1);
    if (last?.output_type === 'stream' && last.name === name) last.text += text;
    else cell.outputs.push({output_type: 'stream', name, text});
  };
  const displays = new Map();
  const writeDisplayData = ({data, metadata, transient}, isUpdate) => {
    if (isUpdate) displays.get(transient.display_id).data = data;
    else {
      const output = {output_type: 'display_data', data, metadata};
      displays.set(transient.display_id, output);
      cell.outputs.push(output);
    }
  };
  const {status, execution_count} = await handler.handleExecute(
    {code: [cell.source].flat().join('')},
    writeStream,
    writeDisplayData,
  );
  cell.execution_count = execution_count ?? null;
  return status === 'ok';
}

(async () => {
  for (const cell of notebook.cells) if (cell.cell_type === 'code' && !(await execute(cell))) break;
  writeFileSync(process.argv[2], JSON.stringify(notebook));
  process.exit(0);
})();
