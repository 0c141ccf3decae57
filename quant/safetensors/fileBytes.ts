/** The bytes of one open file, on disk or not. */
export interface FileBytes {
  readonly size: number;
  /**
   * Fills `target` from byte `position` of the file on, until it is full or the file ends. Absent where reading is
   * asynchronous.
   *
   * @returns the number of bytes read
   */
  readNow?(target: Uint8Array, position: number): number;
  /** Does what {@link readNow} does, asynchronously. */
  read(target: Uint8Array, position: number): Promise<number>;
  close(): void;
}
