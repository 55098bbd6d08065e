#include "tests/cuda_emulator/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace polystrate::emulator {
namespace {

struct Symbols {
  std::vector<SharedVariable> shared;
  std::map<uintptr_t, std::string> functions;  // mangled, by address as linked
};

void AddSymbol(const Elf64_Sym& symbol, std::string_view name, Symbols* symbols) {
  constexpr std::string_view kLocal = "_ZZ", kOurs = "10polystrate4cuda";
  const unsigned char type = ELF64_ST_TYPE(symbol.st_info);
  if (name.find(kOurs) == std::string_view::npos) return;
  if (type == STT_TLS && name.substr(0, kLocal.size()) == kLocal) {
    symbols->shared.push_back({symbol.st_value, symbol.st_size});
  } else if (type == STT_FUNC) {
    symbols->functions.emplace(symbol.st_value, name);
  }
}

Symbols ReadSymbols() {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat status = {};
  CHECK(file >= 0 && fstat(file, &status) == 0);
  const auto size = static_cast<size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  CHECK(mapped != MAP_FAILED);
  close(file);
  const char* data = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(data);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(data + header->e_shoff);
  Symbols symbols;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* names = data + sections[sections[s].sh_link].sh_offset;
    const auto* all = reinterpret_cast<const Elf64_Sym*>(data + sections[s].sh_offset);
    for (size_t i = 0; i < sections[s].sh_size / sizeof(Elf64_Sym); ++i) {
      AddSymbol(all[i], names + all[i].st_name, &symbols);
    }
  }
  munmap(mapped, size);
  return symbols;
}

const Symbols& AllSymbols() {
  static const Symbols* const symbols = new Symbols(ReadSymbols());
  return *symbols;
}

// The executable is the first object that is told of.
int TakeFirst(dl_phdr_info* info, size_t, void* result) {
  *static_cast<dl_phdr_info*>(result) = *info;
  return 1;
}

dl_phdr_info Executable() {
  dl_phdr_info info = {};
  dl_iterate_phdr(TakeFirst, &info);
  return info;
}

}  // namespace

const std::vector<SharedVariable>& SharedVariables() { return AllSymbols().shared; }

char* ThreadStorage() {
  thread_local char* const storage = static_cast<char*>(Executable().dlpi_tls_data);
  return storage;
}

std::string KernelName(const void* kernel) {
  const uintptr_t linked = reinterpret_cast<uintptr_t>(kernel) - Executable().dlpi_addr;
  const auto found = AllSymbols().functions.find(linked);
  if (found == AllSymbols().functions.end()) return absl::StrCat("0x", absl::Hex(linked));
  char* text = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, nullptr);
  if (text == nullptr) return found->second;
  std::string name = text;
  std::free(text);
  return name.substr(0, name.rfind('('));
}

}  // namespace polystrate::emulator
