import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {cudaLibraries, missingLibraries} from '../../../../src/training/backends/cudaLibraries.ts';

test('each release needs its own libraries', () => {
  expect(cudaLibraries('2.21.0')).toEqual(
    expect.arrayContaining(['libcuda.so.1', 'libcudart.so.12', 'libcudnn.so.9']),
  );
  expect(cudaLibraries('2.15.1')).toEqual(expect.arrayContaining(['libcudart.so.12', 'libcudnn.so.8']));
  expect(cudaLibraries('2.9.1')).toEqual(expect.arrayContaining(['libcudart.so.11.0', 'libcudnn.so.8']));
});

test('missing libraries are named, those in the folder or the system are not', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-cuda-'));
  try {
    mkdirSync(join(folder, 'nvidia/cudnn/lib'), {recursive: true});
    writeFileSync(join(folder, 'nvidia/cudnn/lib/libcudnn.so.9'), '');
    const system = process.platform === 'linux' ? ['libm.so.6'] : [];
    expect(await missingLibraries(['libcudnn.so.9', 'libnosuch.so.4', ...system], folder)).toEqual([
      'libnosuch.so.4',
    ]);
    expect(await missingLibraries(['libcudnn.so.9'], join(folder, 'none'))).toEqual(['libcudnn.so.9']);
  } finally {
    rmSync(folder, {recursive: true});
  }
});
