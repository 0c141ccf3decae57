/** Advice for a text in place of data: the name of a file. Empty for other values. */
export const fileAdvice = (data: unknown): string =>
  typeof data === 'string'
    ? ' Read a file with loadDataset({dataset: name, datasetDir: {[name]: {file_name, columns}}, tokenizer}).'
    : '';
