/**
 * `tfjs-lora/browser`: training in a worker, and models and runs in the browser's own storage.
 *
 * @module tfjs-lora/browser
 */

export {CachedFolder, type CachedFolderOptions, type DownloadProgress} from './cachedFolder.ts';
export {serveTasks, type Task, type TaskContext} from './serveTasks.ts';
export {StorageFolder} from './storageFolder.ts';
export {type RunTaskOptions, TaskWorker} from './taskWorker.ts';
