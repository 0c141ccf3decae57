"""Overwrites a library's code for other cards with zeros in place. Nothing moves, and zeros compress to almost nothing.

    python3 keepOneCard.py LIBRARY CAPABILITY
"""

import mmap
import struct
import subprocess
import sys

path, capability = sys.argv[1], int(sys.argv[2])
sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
found = [line for line in sections.splitlines() if " .nv_fatbin " in line]
if not found:
    sys.exit(0)
start, size = (int(field, 16) for field in found[0].split(".nv_fatbin")[1].split()[2:4])
MAGIC, MACHINE_CODE = 0xBA55ED50, 2
dropped = 0
with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    at = start
    while at + 16 <= start + size:
        magic, _, header_bytes, content_bytes = struct.unpack_from("<IHHQ", memory, at)
        if magic != MAGIC:
            at += 8
            continue
        entry, at = at + header_bytes, at + header_bytes + content_bytes
        while entry < at:
            kind, _, entry_header_bytes, entry_bytes = struct.unpack_from("<HHIQ", memory, entry)
            (card,) = struct.unpack_from("<I", memory, entry + 28)
            content = entry + entry_header_bytes
            if (kind, card) != (MACHINE_CODE, capability):
                memory[content : content + entry_bytes] = bytes(entry_bytes)
                dropped += entry_bytes
            entry = content + entry_bytes
print(f"{path}: {dropped / 2**20:.0f} MiB for other cards left out")
