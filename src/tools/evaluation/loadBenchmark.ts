import {existsSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {delimitedRows} from '../../data/datasets/delimitedRecords.ts';
import {pandasColumn} from '../../data/datasets/pandasColumn.ts';
import {ZipFile} from '../../data/datasets/zipFile.ts';

/** The letters of the options. */
export const CHOICES = ['A', 'B', 'C', 'D'] as const;

/** The categories of LLaMA-Factory's benchmarks, in its order. */
export const CATEGORIES = ['STEM', 'Social Sciences', 'Humanities', 'Other'] as const;
export type BenchmarkCategory = (typeof CATEGORIES)[number];

/** A question with its options and the letter of the right one; no letter where the answers are secret. */
export interface BenchmarkQuestion {
  question: string;
  options: string[];
  answer: string;
}

export interface BenchmarkSubject {
  id: string;
  /** Name that prompts mention. */
  name: string;
  category: BenchmarkCategory;
  questions: BenchmarkQuestion[];
  /** Questions with answers, from which the examples in prompts are drawn. */
  examples: BenchmarkQuestion[];
}

type Split = 'test' | 'validation' | 'train';

interface Layout {
  /** Path of a subject's file in the archive, by split. */
  paths: Partial<Record<Split, (subject: string) => string>>;
  /** Names of the columns question, A, B, C, D and answer; absent for files without a header, which have these only. */
  columns?: readonly string[];
}

const QUESTION_COLUMNS = ['question', ...CHOICES, 'answer'];

/** What LLaMA-Factory's loader scripts read. */
const LAYOUTS: Record<string, Layout> = {
  mmlu: {
    paths: {
      test: (subject) => `data/test/${subject}_test.csv`,
      validation: (subject) => `data/val/${subject}_val.csv`,
      train: (subject) => `data/dev/${subject}_dev.csv`,
    },
  },
  ceval: {
    paths: {
      test: (subject) => `test/${subject}_test.csv`,
      validation: (subject) => `val/${subject}_val.csv`,
      train: (subject) => `dev/${subject}_dev.csv`,
    },
    columns: QUESTION_COLUMNS,
  },
  cmmlu: {
    paths: {test: (subject) => `test/${subject}.csv`, train: (subject) => `dev/${subject}.csv`},
    columns: ['Question', ...CHOICES, 'Answer'],
  },
};

/** Names of benchmarks with their splits, as LLaMA-Factory's `task`. */
export const BENCHMARK_TASKS: readonly string[] = Object.entries(LAYOUTS).flatMap(([name, {paths}]) =>
  Object.keys(paths).map((split) => `${name}_${split}`),
);

/**
 * Reads a benchmark of knowledge from a folder in LLaMA-Factory's layout: `<taskDir>/<name>` with `mapping.json` and
 * `<name>.zip`, or with the archive's folders. Cells become text as its loader scripts' pandas reads them.
 *
 * @param task name and split: `mmlu_test`, `ceval_validation`, `cmmlu_test` …
 * @param taskDir Default `evaluation`
 * @throws TfjsLoraError `INVALID_ARGUMENT` for another task, `FILE_NOT_FOUND`, `CORRUPT_FILE` naming file and line
 */
export async function loadBenchmark(task: string, taskDir = 'evaluation'): Promise<BenchmarkSubject[]> {
  const [name, split] = task.split('_') as [string, Split];
  if (!BENCHMARK_TASKS.includes(task)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `benchmark task: expected ${BENCHMARK_TASKS.join(', ')}, got ${show(task)}`,
    );
  }
  const folder = join(taskDir, name);
  if (!existsSync(join(folder, 'mapping.json'))) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `benchmark ${task}: expected mapping.json and ${name}.zip in ${resolve(folder)}, got none. Copy the folder ` +
        'evaluation of LLaMA-Factory here, or name another with task_dir.',
    );
  }
  const mapping = await readJson(join(folder, 'mapping.json'));
  const archive = join(folder, `${name}.zip`);
  const zip = existsSync(archive) ? await ZipFile.open(archive) : undefined;
  try {
    const subjects: BenchmarkSubject[] = [];
    for (const [id, described] of Object.entries(mapping)) {
      const {paths, columns} = LAYOUTS[name];
      const read = async (of: Split) => {
        const path = (paths[of] as (subject: string) => string)(id);
        const text = zip ? await zip.text(path) : await readFile(join(folder, path), 'utf8').catch(missing);
        return questionsOf(text, zip ? `${archive} ${path}` : join(folder, path), columns);
      };
      const [questions, examples] = [await read(split), await read('train')];
      subjects.push({
        id,
        ...subjectOf(described, `${join(folder, 'mapping.json')} ${id}`),
        questions,
        examples,
      });
    }
    return subjects;
  } finally {
    await zip?.close();
  }
}

function missing(cause: NodeJS.ErrnoException): never {
  if (cause.code !== 'ENOENT') throw cause;
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `benchmark ${cause.path}: expected a csv file, or the zip archive that holds it, got none. ` +
      "Download LLaMA-Factory's evaluation folder, and name it by task_dir.",
    {cause},
  );
}

function subjectOf(described: unknown, where: string): Pick<BenchmarkSubject, 'name' | 'category'> {
  const {name, category} = Object(described) as {name?: unknown; category?: unknown};
  if (typeof name === 'string' && CATEGORIES.includes(category as BenchmarkCategory))
    return {name, category: category as BenchmarkCategory};
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${where}: expected a name and a category (${CATEGORIES.join(', ')}), got ${show(described)}`,
  );
}

async function questionsOf(
  text: string,
  file: string,
  columns: readonly string[] | undefined,
): Promise<BenchmarkQuestion[]> {
  const rows: {cells: string[]; line: number}[] = [];
  async function* whole() {
    yield text.replace(/^\uFEFF/, '');
  }
  for await (const row of delimitedRows(whole(), file, ',')) rows.push(row);
  const header = columns ? (rows.shift()?.cells ?? []) : QUESTION_COLUMNS;
  const places = (columns ?? QUESTION_COLUMNS).map((name) => header.indexOf(name));
  const absent = places.slice(0, -1).indexOf(-1); // the answers may be secret
  if (absent !== -1) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${file}: expected a column ${columns?.[absent]}, got ${show(header.join())}`,
    );
  }
  const wrong = rows.find(({cells}) => cells.length !== header.length);
  if (wrong) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${file} line ${wrong.line}: expected ${header.length} cells, got ${wrong.cells.length}`,
    );
  }
  const [question, ...rest] = places.map((at) =>
    at === -1 ? rows.map(() => '') : pandasColumn(rows.map(({cells}) => cells[at])),
  );
  const answers = rest.pop() as string[];
  return rows.map((_, i) => ({
    question: question[i],
    options: rest.map((option) => option[i]),
    answer: answers[i],
  }));
}
