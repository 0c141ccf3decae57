import {createHash} from 'node:crypto';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {cudaWheels} from '../../../src/setup/cudaWheels.ts';
import {compareVersions, downloadWheel, findWheel, packageIndex} from '../../../src/setup/wheelIndex.ts';

const NAMES = [
  'tensorflow_cpu-2.9.0-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl',
  'tensorflow_cpu-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl',
  'tensorflow_cpu-2.21.0-cp312-cp312-win_amd64.whl',
  'tensorflow_cpu-2.20.0-cp312-cp312-manylinux_2_17_aarch64.whl',
  'tensorflow_cpu-2.22.0rc1-cp312-cp312-manylinux_2_27_x86_64.whl',
  'tensorflow_cpu-2.23.0-cp312-cp312-manylinux_2_27_x86_64.whl', // yanked
  'tensorflow_cpu-2.21.0.tar.gz',
];
const CONTENT = 'the wheel';
const SHA256 = createHash('sha256').update(CONTENT).digest('hex');
const linux = {os: 'linux', arch: 'x64'};

describe('a package index', () => {
  let server: Server;
  let address: string;
  let folder: string;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-index-'));
    server = createServer(({url = ''}, response) => {
      const [, format, project] = url.split('/');
      if (format === 'files') return void response.end(CONTENT);
      if (project !== 'tensorflow-cpu') return void response.writeHead(404).end();
      if (format === 'json') {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        const files = NAMES.map((filename) => ({
          filename,
          url: `../../files/${filename}`,
          hashes: {sha256: SHA256},
          yanked: filename.includes('2.23') && 'broken',
        }));
        return void response.end(JSON.stringify({files}));
      }
      response.setHeader('content-type', 'text/html');
      const anchors = NAMES.map((name) => {
        const yanked = name.includes('2.23') ? ' data-yanked="broken"' : '';
        return `<a href="/files/${name}#sha256=${SHA256}"${yanked}>${name}</a><br/>`;
      });
      response.end(`<!DOCTYPE html><html><body>${anchors.join('\n')}</body></html>`);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(async () => {
    rmSync(folder, {recursive: true});
    await new Promise((resolve) => server.close(resolve));
  });

  test.each(['json', 'html'])('in %s gives the newest wheel of the machine', async (format) => {
    const wheel = await findWheel(`${address}/${format}`, 'tensorflow-cpu', linux);
    expect(wheel).toMatchObject({
      version: '2.21.0',
      filename: NAMES[1],
      url: `${address}/files/${NAMES[1]}`,
      sha256: SHA256,
    });
    const arm = await findWheel(`${address}/${format}`, 'tensorflow-cpu', {os: 'linux', arch: 'arm64'});
    expect(arm.version).toBe('2.20.0');
  });

  test('gives any version that is asked for, and names those there are', async () => {
    const find = (version: string) => findWheel(`${address}/json`, 'tensorflow-cpu', linux, version);
    expect((await find('2.22.0rc1')).filename).toBe(NAMES[4]);
    expect((await find('2.23.0')).filename).toBe(NAMES[5]);
    await expect(find('2.8.0')).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
    await expect(find('2.8.0')).rejects.toThrow('got 2.9.0, 2.21.0, 2.23.0. Pass one of these as --version.');
    await expect(findWheel(`${address}/json`, 'tensorflow', linux)).rejects.toThrow('answered 404');
  });

  test('a download is checked', async () => {
    const [wheel, path] = [
      await findWheel(`${address}/json`, 'tensorflow-cpu', linux),
      join(folder, 'w.whl'),
    ];
    await downloadWheel(wheel, path);
    expect(readFileSync(path, 'utf8')).toBe(CONTENT);
    await expect(downloadWheel({...wheel, sha256: 'f'.repeat(64)}, path)).rejects.toMatchObject({
      code: 'CORRUPT_FILE',
    });
  });

  test('is the one that pip would ask', async () => {
    expect(await packageIndex({PIP_INDEX_URL: 'http://mirror/simple/'})).toBe('http://mirror/simple');
    const file = join(folder, 'pip.conf');
    writeFileSync(file, '[global]\ntimeout = 60\nindex-url = http://configured/simple\n');
    expect(await packageIndex({PIP_CONFIG_FILE: file})).toBe('http://configured/simple');
  });
});

test('versions are compared by number', () => {
  expect(['2.9.1', '2.21.0', '2.10', '2.9'].sort(compareVersions)).toEqual([
    '2.9',
    '2.9.1',
    '2.10',
    '2.21.0',
  ]);
});

test('the NVIDIA packages of a wheel, in both spellings of its metadata', () => {
  const metadata = `Name: tensorflow
Requires-Dist: numpy <2.1.0,>=1.26.0
Requires-Dist: nvidia-cublas-cu12 ==12.5.3.2 ; extra == 'and-cuda'
Requires-Dist: nvidia-cudnn-cu12<10.0,>=9.3.0.75; extra == "and-cuda"
Requires-Dist: nvidia-nccl-cu12 (==2.19.3) ; extra == 'and-cuda'
`;
  expect(cudaWheels(metadata)).toEqual([
    {project: 'nvidia-cublas-cu12', version: '12.5.3.2'},
    {project: 'nvidia-cudnn-cu12', version: '9.3.0.75'},
    {project: 'nvidia-nccl-cu12', version: '2.19.3'},
  ]);
  expect(cudaWheels('Requires-Dist: numpy')).toEqual([]);
});
