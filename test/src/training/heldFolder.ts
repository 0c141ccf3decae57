/** Holds a folder until it is killed: `heldFolder.ts <folder>`. */
import {FolderLock} from '../../../src/training/output/folderLock.ts';

FolderLock.take(process.argv[2], 'folder');
process.stdout.write('held\n');
setInterval(() => {}, 1000);
