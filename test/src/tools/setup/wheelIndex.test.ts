import {createHash} from 'node:crypto';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {cudaWheels} from '../../../../src/tools/setup/cudaWheels.ts';
import {fetchWheel} from '../../../../src/tools/setup/fetchWheel.ts';
import {
  compareVersions,
  downloadWheel,
  findWheel,
  packageIndex,
} from '../../../../src/tools/setup/wheelIndex.ts';

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
  let authorization: string | undefined;
  let corrupt = '';

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-index-'));
    server = createServer(({url = '', headers}, response) => {
      const [, format, project] = url.split('/');
      authorization = headers.authorization;
      if (format === 'files') return void response.end(CONTENT);
      if (format === 'gone') return void response.writeHead(410).end();
      if (format === 'corrupt') {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        return void response.end(corrupt);
      }
      if (project !== 'tensorflow-cpu') return void response.writeHead(404).end();
      if (format !== 'html') {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        const files = NAMES.map((filename) => ({
          filename,
          url:
            {
              elsewhere: `${address.replace('127.0.0.1', 'localhost')}/files/${filename}`,
              unloadable: `../../gone/${filename}`,
            }[format] ?? `../../files/${filename}`,
          ...(format !== 'hashless' && {hashes: {sha256: format === 'wrong' ? 'f'.repeat(64) : SHA256}}),
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

  test.each(['json', 'html'])('in %s has the newest wheel for the machine', async (format) => {
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

  test('has any version, and names the existing ones for an unknown version', async () => {
    const find = (version: string) => findWheel(`${address}/json`, 'tensorflow-cpu', linux, version);
    expect((await find('2.22.0rc1')).filename).toBe(NAMES[4]);
    expect((await find('2.23.0')).filename).toBe(NAMES[5]);
    await expect(find('2.8.0')).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
    await expect(find('2.8.0')).rejects.toThrow('got 2.9.0, 2.21.0, 2.23.0. Pass one of these as --version.');
    await expect(findWheel(`${address}/json`, 'tensorflow', linux)).rejects.toThrow('answered 404');
  });

  test('has the hash that checks a download', async () => {
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

  test('gets the credentials in its address, and no other host does', async () => {
    const index = `${address.replace('://', '://someone:pass%40word@')}/json`;
    const wheel = await findWheel(index, 'tensorflow-cpu', linux);
    const header = `Basic ${Buffer.from('someone:pass@word').toString('base64')}`;
    expect(authorization).toBe(header);
    expect(wheel).toMatchObject({url: `${address}/files/${NAMES[1]}`, authorization: header});
    await downloadWheel(wheel, join(folder, 'w.whl'));
    expect(authorization).toBe(header);
    const elsewhere = await findWheel(index.replace('/json', '/elsewhere'), 'tensorflow-cpu', linux);
    expect(elsewhere.url).toMatch(/^http:\/\/localhost:/);
    expect(elsewhere.authorization).toBeUndefined();
  });

  test.each([
    'null',
    '{}',
    '{"files": null}',
    '{"files": [null]}',
    '{"files": [{"filename": 7, "url": "x"}]}',
    '<html>',
  ])('a page that is none (%s) is an error', async (page) => {
    corrupt = page;
    await expect(findWheel(`${address}/corrupt`, 'tensorflow-cpu', linux)).rejects.toThrow();
  });

  test('has no wheels whose names lead out of a folder', async () => {
    const files = ['../', 'a/../../', '/'].map((start) => ({
      filename: `${start}tensorflow_cpu-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl`,
      url: 'x',
    }));
    corrupt = JSON.stringify({files});
    await expect(findWheel(`${address}/corrupt`, 'tensorflow-cpu', linux)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
  });

  describe('from which a wheel is fetched', () => {
    const fetching = async (environment: Record<string, string>) => {
      const lines: string[] = [];
      const request = {project: 'tensorflow-cpu', version: '2.21.0', folder, environment};
      const path = await fetchWheel({...request, onProgress: (line) => lines.push(line)});
      return {path, lines};
    };
    const onLinux = process.platform === 'linux' && process.arch === 'x64' ? test : test.skip;

    onLinux('says by which hash it was verified', async () => {
      const {path, lines} = await fetching({PIP_INDEX_URL: `${address}/json`});
      expect(readFileSync(path, 'utf8')).toBe(CONTENT);
      expect(lines).toEqual([`  ${NAMES[1]}: SHA-256 ${SHA256}, equal to the index's`]);
    });

    onLinux('says that there was none', async () => {
      const {lines} = await fetching({PIP_INDEX_URL: `${address}/hashless`});
      expect(lines).toEqual([
        `  ${NAMES[1]}: not verified, because the index has no SHA-256; the file's is ${SHA256}`,
      ]);
    });

    onLinux('is refused for a wrong one, by pip neither', async () => {
      await expect(fetching({PIP_INDEX_URL: `${address}/wrong`})).rejects.toMatchObject({
        code: 'CORRUPT_FILE',
      });
    });

    /** Writes a python3 whose pip "downloads" a wheel, or fails with a message. */
    const withPip = (script: string, index: string) => {
      const bin = mkdtempSync(join(folder, 'bin-'));
      writeFileSync(join(bin, 'python3'), `#!/bin/sh\n${script}\n`, {mode: 0o755});
      return {PATH: `${bin}:${process.env.PATH}`, PIP_INDEX_URL: index};
    };
    const downloading = (content: string) => `printf '${content}' > '${folder}/${NAMES[1]}'`;

    onLinux('by pip says that it was not verified here', async () => {
      const {lines} = await fetching(withPip(downloading(CONTENT), 'http://127.0.0.1:9/simple'));
      expect(lines).toEqual([
        `  ${NAMES[1]}: downloaded by pip, which checks a hash if its index has one; not verified here, SHA-256 ${SHA256}`,
      ]);
    });

    onLinux('by pip is verified where the index could be read', async () => {
      const {lines} = await fetching(withPip(downloading(CONTENT), `${address}/unloadable`));
      expect(lines).toEqual([`  ${NAMES[1]}: SHA-256 ${SHA256}, equal to the index's`]);
      const other = downloading('another');
      await expect(fetching(withPip(other, `${address}/unloadable`))).rejects.toMatchObject({
        code: 'CORRUPT_FILE',
      });
    });

    test('shows no credentials if everything fails', async () => {
      const environment = withPip(
        'echo "no such index: $PIP_EXTRA_INDEX_URL" >&2; exit 1',
        'http://me:un-guessable@127.0.0.1:9/x',
      );
      const request = {project: 'tensorflow-cpu', folder: mkdtempSync(join(folder, 'none-'))};
      const error = await fetchWheel({
        ...request,
        environment: {...environment, PIP_EXTRA_INDEX_URL: 'http://you:also-secret@mirror/simple'},
        onProgress: () => {},
      }).catch((caught: Error) => caught);
      expect((error as Error).message).toContain('by pip: no such index: http://***@mirror/simple');
      expect(`${(error as Error).message} ${(error as Error).stack}`).not.toMatch(/un-guessable|also-secret/);
    });
  });

  test('is the one that pip would use', async () => {
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
