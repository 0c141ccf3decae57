/** Sets up TensorFlow for a card in a folder, without NVIDIA's libraries. A later run recompiles changed fused ops. */
import {setupTensorFlow} from '../../src/tools/setup/setupTensorFlow.ts';

const {fusedOps} = await setupTensorFlow({
  gpu: true,
  from: 'wheel',
  version: process.env.TENSORFLOW ?? '2.21.0',
  nvidia: false,
  folder: process.argv[2],
  environment: process.env,
  execPath: process.execPath,
  onProgress: (line) => console.error(line),
});
if (!fusedOps?.sources) throw new Error(`fused ops: expected them, got: ${fusedOps?.missing}`);
