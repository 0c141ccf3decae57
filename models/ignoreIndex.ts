/** Label of tokens that the loss ignores. */
export const IGNORE_INDEX = -100;
