/** Pixels of the drawing and of the margin left for its labels. */
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [640, 220, 34, 24, 10];

/** Draws the loss of each step into an `<svg>` of 640 × 220. */
export function drawLoss(svg: SVGElement, losses: number[], totalSteps: number): void {
  const highest = Math.max(0.5, ...losses);
  const x = (step: number) => LEFT + ((WIDTH - LEFT - 6) * (step - 1)) / Math.max(1, totalSteps - 1);
  const y = (loss: number) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * loss) / highest;
  const spacing = highest > 4 ? 2 : highest > 1.5 ? 1 : 0.25;
  const levels = Array.from({length: Math.floor(highest / spacing) + 1}, (_, i) => i * spacing);
  const points = losses.map((loss, i) => `${x(i + 1).toFixed(1)},${y(loss).toFixed(1)}`);
  const [lastX, lastY] = points.at(-1)?.split(',') ?? [];
  svg.innerHTML = [
    ...levels.map((level) => `<path class="grid" d="M${LEFT} ${y(level)}H${WIDTH - 6}" />`),
    ...levels.map((level) => `<text x="${LEFT - 8}" y="${y(level) + 4}" text-anchor="end">${level}</text>`),
    `<text x="${LEFT}" y="${HEIGHT - 6}">step 1</text>`,
    `<text x="${WIDTH - 6}" y="${HEIGHT - 6}" text-anchor="end">${totalSteps}</text>`,
    `<polyline class="loss" points="${points.join(' ')}" />`,
    lastX ? `<circle cx="${lastX}" cy="${lastY}" r="3.5" />` : '',
  ].join('');
  const ends = [losses[0], losses.at(-1)].map((loss) => loss?.toFixed(3));
  svg.setAttribute(
    'aria-label',
    losses.length > 0 ? `Loss from ${ends[0]} to ${ends[1]} in ${losses.length} steps` : 'No loss yet',
  );
}
