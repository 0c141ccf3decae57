import type {SourceRecord} from './sourceRecord.ts';

/** Rows of a Parquet file, a row group at a time. */
export async function* parquetRecords(path: string): AsyncGenerator<SourceRecord> {
  // Both are ES modules alone, which CommonJS can only import so.
  const [{asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects}, {compressors}] = await Promise.all([
    import('hyparquet'),
    import('hyparquet-compressors'),
  ]);
  const file = await asyncBufferFromFile(path);
  const metadata = await parquetMetadataAsync(file);
  let index = 0;
  for (const group of metadata.row_groups) {
    const rowEnd = index + Number(group.num_rows);
    const rows = await parquetReadObjects({file, metadata, compressors, rowStart: index, rowEnd});
    for (const value of rows) yield {value, file: path, index: index++};
  }
}
