/** A label that does not count. */
export const IGNORE_INDEX = -100;
