import {TfjsLoraError} from '../../../quant/errors.ts';

/** In place of `renderPlot` in the browser build, which leaves vega out. */
export async function renderPlot(): Promise<never> {
  throw new TfjsLoraError('UNSUPPORTED', 'plot: expected Node, got a browser. Draw `history.steps` there.');
}
