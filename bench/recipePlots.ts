/**
 * Draws the loss curves of several runs of recipe.ts side by side: `<out>.svg` and `<out>.png`.
 *
 *   npx tsx bench/recipePlots.ts --out docs/smollm2-loss LoRA=lora.out QLoRA=qlora.out
 *
 * Each argument is a title and the printed output of a run.
 */
import {readFileSync} from 'node:fs';
import {parseArgs} from 'node:util';
import {overlayPlot} from './overlayPlot.ts';

async function main(): Promise<void> {
  const {values, positionals} = parseArgs({allowPositionals: true, options: {out: {type: 'string'}}});
  const overlays = positionals.map((argument) => {
    const [title, file] = argument.split('=');
    const {all, ours, peer} = JSON.parse(readFileSync(file, 'utf8').trim().split('\n').at(-1)!);
    const subtitle = `largest relative difference ${all.toExponential(1)} in ${ours.length} steps`;
    return {title, subtitle, curves: {'tfjs-lora': ours, 'PyTorch + PEFT': peer}};
  });
  await overlayPlot(overlays, values.out!);
}

main();
