import {clusterPlace} from '../../../../src/training/cluster/clusterPlace.ts';

const tfConfig = (cluster: object, type: string, index: number) => ({
  TF_CONFIG: JSON.stringify({cluster, task: {type, index}}),
});

describe('the place of a rank', () => {
  test('is none without a launcher, and for a single process', () => {
    expect(clusterPlace({})).toBeUndefined();
    expect(clusterPlace({RANK: '0', WORLD_SIZE: '1', MASTER_PORT: '7000'})).toBeUndefined();
    expect(clusterPlace({SLURM_NTASKS: '4', SLURM_PROCID: '0'})).toBeUndefined(); // a batch script, not a step
    expect(clusterPlace(tfConfig({worker: ['a:1']}, 'worker', 0))).toBeUndefined();
  });

  test('is read from TF_CONFIG, the chief first', () => {
    const cluster = {worker: ['b:2222', 'b:2223'], chief: ['a:2222']};
    const addresses = ['a:2222', 'b:2222', 'b:2223'];
    const source = 'TF_CONFIG';
    expect(clusterPlace(tfConfig(cluster, 'chief', 0))).toEqual({rank: 0, localRank: 0, addresses, source});
    expect(clusterPlace(tfConfig(cluster, 'worker', 1))).toEqual({rank: 2, localRank: 1, addresses, source});
  });

  test('is read from the variables of torchrun', () => {
    const host = {WORLD_SIZE: '2', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'a', MASTER_PORT: '7000'};
    expect(clusterPlace({...host, RANK: '1', LOCAL_RANK: '1'})).toEqual({
      rank: 1,
      localRank: 1,
      addresses: ['a:7001', 'a:7002'],
      source: 'torchrun',
    });
    const two = {...host, WORLD_SIZE: '4', TFJS_LORA_HOSTS: 'a,b', RANK: '3', LOCAL_RANK: '1'};
    expect(clusterPlace(two)?.addresses).toEqual(['a:7001', 'a:7002', 'b:7001', 'b:7002']);
  });

  test('is read from the variables of OpenMPI', () => {
    const variables = {RANK: '1', SIZE: '2', LOCAL_RANK: '0', LOCAL_SIZE: '1'};
    const named = Object.entries(variables).map(([name, value]) => [`OMPI_COMM_WORLD_${name}`, value]);
    expect(clusterPlace({...Object.fromEntries(named), TFJS_LORA_HOSTS: 'a,b'})).toEqual({
      rank: 1,
      localRank: 0,
      addresses: ['a:29501', 'b:29501'],
      source: 'OpenMPI',
    });
  });

  test('is read from the variables of a step of SLURM', () => {
    const step = {
      SLURM_STEP_NUM_TASKS: '6',
      SLURM_STEP_NODELIST: 'gpu[08-09,11],login',
      SLURM_STEP_TASKS_PER_NODE: '2(x2),1(x2)',
      SLURM_PROCID: '3',
      SLURM_LOCALID: '1',
    };
    const addresses = [
      'gpu08:29501',
      'gpu08:29502',
      'gpu09:29501',
      'gpu09:29502',
      'gpu11:29501',
      'login:29501',
    ];
    expect(clusterPlace(step)).toEqual({rank: 3, localRank: 1, addresses, source: 'SLURM'});
  });

  test.each([
    ['no JSON', {TF_CONFIG: '{'}, 'TF_CONFIG: expected JSON with cluster'],
    ['no port', tfConfig({worker: ['a', 'b']}, 'worker', 0), 'TF_CONFIG: expected JSON with cluster'],
    [
      'no such task',
      tfConfig({worker: ['a:1', 'b:1']}, 'worker', 2),
      'TF_CONFIG task: expected one of its cluster',
    ],
    [
      'another task',
      tfConfig({worker: ['a:1'], ps: ['b:1']}, 'worker', 0),
      'only chief and worker tasks, got ps',
    ],
    ['no number', {RANK: 'x', WORLD_SIZE: '2'}, 'RANK: expected a whole number, got "x"'],
    [
      'no hosts',
      {RANK: '0', WORLD_SIZE: '4', LOCAL_WORLD_SIZE: '2', LOCAL_RANK: '0'},
      'TFJS_LORA_HOSTS: expected',
    ],
    [
      'other counts',
      {SLURM_STEP_NUM_TASKS: '2', SLURM_STEP_NODELIST: 'a', SLURM_PROCID: '0', SLURM_LOCALID: '0'},
      'expected 2 tasks on the listed hosts',
    ],
  ])('is refused with %s', (_, environment, message) => {
    expect(() => clusterPlace(environment)).toThrow(message);
  });
});
