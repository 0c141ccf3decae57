/** Prefix of a weight's name in a PEFT file; the name in the model follows. */
export const PEFT_PREFIX = 'base_model.model.';
