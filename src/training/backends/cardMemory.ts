import {isNode, nodeModule} from './processor.ts';

/**
 * Finds the bytes of the graphics card's memory, which neither WebGPU nor TensorFlow tell: of the first NVIDIA card by its
 * driver's `nvidia-smi`, or of the largest AMD card by Linux. Returns undefined for other cards, in a browser, and without
 * a card.
 */
export async function cardMemory(): Promise<number | undefined> {
  if (!isNode()) return undefined;
  const {execFile} = await nodeModule<typeof import('node:child_process')>('child_process');
  const query = ['--query-gpu=memory.total', '--format=csv,noheader,nounits'];
  const output = await new Promise<string>((resolve) => {
    execFile('nvidia-smi', query, {timeout: 10_000}, (error, stdout) => resolve(error ? '' : stdout));
  });
  const mebibytes = Number.parseInt(output, 10);
  if (mebibytes > 0) return mebibytes * 2 ** 20;
  const {readdir, readFile} = (await nodeModule<typeof import('node:fs')>('fs')).promises;
  const folder = '/sys/class/drm';
  const cards = await readdir(folder).catch(() => [] as string[]);
  const sizes = await Promise.all(
    cards.map((card) => readFile(`${folder}/${card}/device/mem_info_vram_total`, 'utf8').catch(() => '0')),
  );
  return Math.max(0, ...sizes.map(Number)) || undefined;
}
