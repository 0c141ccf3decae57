/** Whether an `init_lora_weights` of PEFT changes the base, so that the adapter is wrong on the unchanged one. */
export const changesBase = (method: string): boolean => /^(pissa|olora|loftq)/.test(method);
