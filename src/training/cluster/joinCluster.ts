import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {contextSource} from '../backends/contextSource.ts';
import {nvidiaCards} from '../backends/cudaLibraries.ts';
import {readSetup, tensorflowFolder} from '../backends/tensorflowFolder.ts';
import {type ClusterPlace, clusterPlace} from './clusterPlace.ts';
import {CollectiveRanks} from './collectiveRanks.ts';
import {ranks, setRanks} from './ranks.ts';
import {serverDef} from './serverDef.ts';

export interface JoinOptions {
  /** Seconds after which a step fails if a rank has not reached it: transformers' `ddp_timeout`. Default 1800. */
  timeout?: number;
}
const JOIN_OPTIONS = {timeout: true} satisfies OptionNames<JoinOptions>;

/**
 * Lets this process train together with the other processes that the same launcher started, one for each card. Data is
 * split among them, and gradients are added up through TensorFlow's collective ops, on every backend. The rank of the
 * process comes from the launcher's environment variables: `TF_CONFIG`, torchrun's, OpenMPI's or SLURM's. Call it
 * before `useBackend`. Without a launcher, or when it is called again, it does nothing.
 *
 * The process listens without authentication, so the network must be trusted: on loopback if all addresses are there,
 * on the address in `TFJS_LORA_LISTEN` if it is set, or on all interfaces.
 *
 * @returns the number of this process, and of all
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming a launcher's variable, `UNSUPPORTED` after a backend of TensorFlow
 *   was started, `BACKEND_UNAVAILABLE` when TensorFlow is not set up for it
 */
export async function joinCluster(options: JoinOptions = {}): Promise<{rank: number; size: number}> {
  assertKnownOptions('joinCluster', options, JOIN_OPTIONS);
  const {timeout = 1800} = options;
  if (!(timeout > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `joinCluster timeout: expected a number of seconds above 0, got ${show(timeout)}`,
    );
  }
  const {env} = globalThis.process;
  const place = ranks().size === 1 ? clusterPlace(env) : undefined;
  if (place) {
    if (tf.findBackendFactory('tensorflow') != null)
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'joinCluster: expected a call before useBackend, got one after it.',
      );
    await assertSetUp();
    await takeCard(place);
    // Read when TensorFlow's context is made. Its own log would bury the message of a lost rank.
    Object.assign(env, {
      ...(isLoopback(place) && {TFJS_LORA_LISTEN: '127.0.0.1'}),
      ...(await cardLayer(place)),
      TFJS_LORA_SERVER_DEF: serverDef(place.addresses, place.rank),
      TF_CPP_MIN_LOG_LEVEL: env.TF_CPP_MIN_LOG_LEVEL ?? '3',
    });
    setRanks(new CollectiveRanks(place, timeout));
  }
  const {rank, size} = ranks();
  return {rank, size};
}

/** Whether a rank need not be reached from other hosts. Elsewhere `TFJS_LORA_LISTEN` may name an address. */
const isLoopback = ({addresses}: ClusterPlace): boolean =>
  globalThis.process.env.TFJS_LORA_LISTEN === undefined &&
  addresses.every((address) => /^(127\.0\.0\.1|localhost):/.test(address));

async function assertSetUp(): Promise<void> {
  const {context} = (await readSetup(await tensorflowFolder())) ?? {};
  if (context === (await contextSource()).hash) return;
  throw new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    'joinCluster: expected a TensorFlow whose addon can join a cluster, got ' +
      `${context === undefined ? 'none' : 'one of another version of tfjs-lora'}. ` +
      'Run npx tfjs-lora setup tensorflow --from wheel, with --gpu for NVIDIA cards.',
  );
}

/** Returns the variables that show this process one card through Vulkan, on Linux: see native/layer/choose_card.cc. */
async function cardLayer({localRank}: ClusterPlace): Promise<Record<string, string>> {
  const {env, platform} = globalThis.process;
  if (platform !== 'linux') return {};
  const {CUDA_VISIBLE_DEVICES = '', VK_INSTANCE_LAYERS, VK_LAYER_PATH} = env;
  const listed = (first: string, more?: string) => (more ? `${first}:${more}` : first);
  return {
    TFJS_LORA_CARD: /^\d+$/.test(CUDA_VISIBLE_DEVICES) ? CUDA_VISIBLE_DEVICES : `${localRank}`,
    VK_INSTANCE_LAYERS: listed('VK_LAYER_TFJS_LORA_choose_card', VK_INSTANCE_LAYERS),
    VK_LAYER_PATH: listed(await tensorflowFolder(), VK_LAYER_PATH),
  };
}

/** Leaves this process one card of the host, because the addon takes the last one that it sees. */
async function takeCard({localRank}: ClusterPlace): Promise<void> {
  const {env} = globalThis.process;
  const given = env.CUDA_VISIBLE_DEVICES?.split(',');
  if (given?.length === 1) return; // the launcher chose it, or there is to be none
  const visible = given ?? (await nvidiaCards()).map((_, i) => `${i}`);
  if (localRank < visible.length) env.CUDA_VISIBLE_DEVICES = visible[localRank];
  else if (visible.length > 0)
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `joinCluster: expected a card for each rank of this host, got ${visible.length} for rank ${localRank + 1} of it. ` +
        'Start fewer ranks, or none with a card: CUDA_VISIBLE_DEVICES=""',
    );
}
