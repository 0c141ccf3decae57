import {TfjsLoraError} from '../../../quant/errors.ts';

/** Replaces `renderPlot` in the browser build, which does not include vega. */
export async function renderPlot(): Promise<never> {
  throw new TfjsLoraError('UNSUPPORTED', 'plot: expected Node, got a browser. Draw `history.steps` there.');
}

export {renderPlot as assertCanPlot};
