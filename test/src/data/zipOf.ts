import {deflateRawSync} from 'node:zlib';

/** Makes a zip archive of these members, with zeros as checksums. */
export function zipOf(members: {name: string; text: string; isStored?: boolean}[]): Buffer {
  const pieces: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const {name, text, isStored = false} of members) {
    const data = isStored ? Buffer.from(text) : deflateRawSync(text);
    const [nameBytes, method] = [Buffer.from(name), isStored ? 0 : 8];
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(method, 8);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt16LE(nameBytes.length, 26);
    local.writeUInt16LE(4, 28); // an extra field, as wheels may have
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(method, 10);
    entry.writeUInt32LE(data.length, 20);
    entry.writeUInt16LE(nameBytes.length, 28);
    entry.writeUInt32LE(offset, 42);
    directory.push(entry, nameBytes);
    pieces.push(local, nameBytes, Buffer.alloc(4), data);
    offset += 30 + nameBytes.length + 4 + data.length;
  }
  const entries = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt32LE(entries.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...pieces, entries, end]);
}
