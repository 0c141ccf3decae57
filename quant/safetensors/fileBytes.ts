/** The bytes of one open file, wherever it lies. */
export interface FileBytes {
  readonly size: number;
  /**
   * Fills `target` from byte `position` of the file on, until it is full or the file ends. Absent where bytes come only
   * later.
   *
   * @returns how many bytes were read
   */
  readNow?(target: Uint8Array, position: number): number;
  /** {@link readNow} where it can wait. */
  read(target: Uint8Array, position: number): Promise<number>;
  close(): void;
}
