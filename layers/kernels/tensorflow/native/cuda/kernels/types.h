#pragma once

// Numbers by their size, because neither side of a kernel's start has the other's headers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
