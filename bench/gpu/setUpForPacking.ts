/** Sets TensorFlow for a card up in a folder, without NVIDIA's libraries; run again, compiles the fused ops if they changed. */
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
