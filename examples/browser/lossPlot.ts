/** Height of the plot and margins for its labels, in pixels. */
const [HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [220, 34, 6, 24, 10];

/** Top of the scale before there is a loss. */
const EXPECTED = 4;

/** Draws the loss of each step into an `<svg>`, at the element's width on the page. */
export function drawLoss(svg: SVGElement, losses: number[], totalSteps: number): void {
  const right = svg.clientWidth - RIGHT;
  const highest = losses.length > 0 ? Math.max(0.5, ...losses) : EXPECTED;
  const x = (step: number) => LEFT + ((right - LEFT) * (step - 1)) / Math.max(1, totalSteps - 1);
  const y = (loss: number) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * loss) / highest;
  const spacing = highest > 4 ? 2 : highest > 1.5 ? 1 : 0.25;
  const levels = Array.from({length: Math.floor(highest / spacing) + 1}, (_, i) => i * spacing);
  const points = losses.map((loss, i) => `${x(i + 1).toFixed(1)},${y(loss).toFixed(1)}`);
  const [lastX, lastY] = points.at(-1)?.split(',') ?? [];
  svg.setAttribute('viewBox', `0 0 ${svg.clientWidth} ${HEIGHT}`);
  svg.innerHTML = [
    ...levels.map((level) => `<path class="grid" d="M${LEFT} ${y(level)}H${right}" />`),
    ...levels.map((level) => `<text x="${LEFT - 8}" y="${y(level) + 4}" text-anchor="end">${level}</text>`),
    `<text x="${LEFT}" y="${HEIGHT - 6}">step 1</text>`,
    `<text x="${right}" y="${HEIGHT - 6}" text-anchor="end">${totalSteps}</text>`,
    `<text class="name" x="${right}" y="${TOP + 14}" text-anchor="end">loss</text>`,
    `<polyline class="loss" points="${points.join(' ')}" />`,
    lastX ? `<circle cx="${lastX}" cy="${lastY}" r="3.5" />` : '',
  ].join('');
  const ends = [losses[0], losses.at(-1)].map((loss) => loss?.toFixed(3));
  svg.setAttribute(
    'aria-label',
    losses.length > 0 ? `Loss from ${ends[0]} to ${ends[1]} in ${losses.length} steps` : 'No loss yet',
  );
}
