#include "listen_on.h"

#ifdef __linux__
#include <arpa/inet.h>
#include <link.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

in_addr chosen;

/** Binds to the chosen address instead of all. An IPv6 socket takes it as a mapped address. */
int bindToChosen(int socket, const sockaddr* address, socklen_t length) {
  if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in changed = *reinterpret_cast<const sockaddr_in*>(address);
    if (changed.sin_addr.s_addr == INADDR_ANY) changed.sin_addr = chosen;
    return bind(socket, reinterpret_cast<const sockaddr*>(&changed), sizeof changed);
  }
  if (address->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
    sockaddr_in6 changed = *reinterpret_cast<const sockaddr_in6*>(address);
    if (IN6_IS_ADDR_UNSPECIFIED(&changed.sin6_addr)) {
      changed.sin6_addr.s6_addr[10] = changed.sin6_addr.s6_addr[11] = 0xff;
      memcpy(&changed.sin6_addr.s6_addr[12], &chosen, sizeof chosen);
    }
    return bind(socket, reinterpret_cast<const sockaddr*>(&changed), sizeof changed);
  }
  return bind(socket, address, length);
}

/** Redirects a loaded library's calls of `bind`, through the table that the linker filled. */
int redirect(dl_phdr_info* library, size_t, void* count) {
  if (!strstr(library->dlpi_name, "libtensorflow")) return 0;
  const ElfW(Rela)* relocations = nullptr;
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  size_t bytes = 0;
  for (int i = 0; i < library->dlpi_phnum; i++) {
    if (library->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    auto* entry = reinterpret_cast<const ElfW(Dyn)*>(library->dlpi_addr + library->dlpi_phdr[i].p_vaddr);
    for (; entry->d_tag != DT_NULL; entry++) {
      if (entry->d_tag == DT_JMPREL) relocations = reinterpret_cast<const ElfW(Rela)*>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_PLTRELSZ) bytes = entry->d_un.d_val;
    }
  }
  for (size_t i = 0; relocations && symbols && names && i < bytes / sizeof(ElfW(Rela)); i++) {
    if (strcmp(names + symbols[ELF64_R_SYM(relocations[i].r_info)].st_name, "bind") != 0) continue;
    const uintptr_t slot = library->dlpi_addr + relocations[i].r_offset;
    const uintptr_t page = slot & ~(static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) - 1);
    if (mprotect(reinterpret_cast<void*>(page), slot + sizeof(void*) - page, PROT_READ | PROT_WRITE) != 0) continue;
    *reinterpret_cast<decltype(&bindToChosen)*>(slot) = bindToChosen;
    ++*static_cast<int*>(count);
  }
  return 0;
}

}  // namespace

bool listenOn(const char* address) {
  int count = 0;
  if (inet_pton(AF_INET, address, &chosen) != 1) return false;
  dl_iterate_phdr(redirect, &count);
  return count > 0;
}

#else

bool listenOn(const char*) { return false; }

#endif
