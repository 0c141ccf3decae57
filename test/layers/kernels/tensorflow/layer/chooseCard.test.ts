import {spawnSync} from 'node:child_process';
import {join} from 'node:path';
import {temporaryFolder} from '../../../../src/training/temporaryFolder.ts';

const pathOf = temporaryFolder();
const source = join(__dirname, '../../../../../layers/kernels/tensorflow/native/layer/choose_card.cc');
const canCompile = process.platform === 'linux' && spawnSync('c++', ['--version']).status === 0;

(canCompile ? describe : describe.skip)('the layer that chooses a card', () => {
  const program = () => pathOf('loader');
  beforeAll(() => {
    const args = ['-std=c++17', join(__dirname, 'fakeLoader.cc'), source, '-o', program()];
    const {status, stderr} = spawnSync('c++', args, {encoding: 'utf8'});
    if (status !== 0) throw new Error(stderr);
  });

  /** Returns what a rank sees of the cards, as the loader prints it. */
  const seen = (cards: string[], rank: number, name?: string) => {
    const env = {TFJS_LORA_CARD: `${rank}`, ...(name && {TFJS_LORA_CARD_NAME: name})};
    return spawnSync(program(), cards, {env, encoding: 'utf8'}).stdout.trim();
  };
  const identity = (card: number) => `0${card}`.repeat(16);
  const [SOFTWARE, A, B] = ['4:llvmpipe', '2:NVIDIA A', '2:NVIDIA B'];

  test('shows each rank a card of its own, though they have one name', () => {
    expect(seen([A, SOFTWARE, A], 0)).toBe(`0 NVIDIA A ${identity(0)}`);
    expect(seen([A, SOFTWARE, A], 1)).toBe(`2 NVIDIA A ${identity(2)}`);
  });

  test('shows the same card again if there are fewer than ranks, and says which', () => {
    expect(seen([A], 1)).toBe(`0 NVIDIA A ${identity(0)}`);
  });

  test('counts through the cards with a name, and shows all if none has it', () => {
    expect(seen([A, B, A, B], 1, 'IA B')).toBe(`3 NVIDIA B ${identity(3)}`);
    expect(seen([A, B], 1, 'IA A')).toBe(`0 NVIDIA A ${identity(0)}`);
    expect(seen([A, B], 1, 'IA C')).toBe('0 1');
  });

  test('shows a software driver if there is no card', () => {
    expect(seen([SOFTWARE], 1)).toBe('0 software');
  });
});
