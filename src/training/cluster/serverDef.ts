import {bytesField, message, varintField} from '../protobuf/protobuf.ts';

/**
 * Encodes a `tensorflow.ServerDef` for one rank in hex, as `TFE_EnableCollectiveOps` takes it. Rank 0 leads the groups
 * of collective ops. Between cards they use NCCL.
 */
export function serverDef(addresses: readonly string[], rank: number): string {
  const leader = '/job:worker/replica:0/task:0';
  const tasks = addresses.map((address, i) =>
    bytesField(2, message(varintField(1, i), bytesField(2, address))),
  );
  const cluster = bytesField(1, message(bytesField(1, 'worker'), ...tasks));
  const experimental = message(bytesField(1, leader), varintField(7, 1)); // collective_group_leader, collective_nccl
  const session = message(bytesField(4, `/job:worker/task:${rank}`), bytesField(16, experimental)); // device_filters
  const server = message(
    bytesField(1, cluster),
    bytesField(2, 'worker'), // job_name
    varintField(3, rank), // task_index
    bytesField(4, session), // default_session_config
    bytesField(5, 'grpc'), // protocol
  );
  return Buffer.from(server).toString('hex');
}
