/** Whether an `init_lora_weights` of PEFT changes the base, so that the adapter is wrong on the unchanged one. */
export const changesBase = (method: string): boolean => /^(pissa|olora|loftq|corda|lora_ga)/.test(method);

/** Whether it changes the base by what was measured on batches, which no file of PEFT has. */
export const changesBaseByData = (method: string): boolean => method === 'corda' || method === 'lora_ga';
