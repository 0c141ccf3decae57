import {setWarningHandler} from '../../../../quant/warn.ts';
import {type BackendReport, useBackend} from '../../../../src/training/backends/useBackend.ts';

const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('webgpu');

(isAsked ? test : test.skip)(
  'a software driver of webgpu is warned about once, and a card is not',
  async () => {
    const warnings: string[] = [];
    const before = setWarningHandler((message) => warnings.push(message));
    let report: BackendReport | undefined;
    for (const computeDtype of ['float32', 'float16'] as const)
      report = await useBackend('webgpu', {computeDtype});
    setWarningHandler(before);
    const {device = ''} = report ?? {};
    const expected = `backend webgpu (${device}): expected a graphics card, got a software driver`;
    const isSoftware = /llvmpipe|lavapipe|swiftshader/i.test(device);
    expect(warnings).toEqual(isSoftware ? [expect.stringContaining(expected)] : []);
  },
);
