#include "tests/cuda_emulator/shared_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "kernels/core/check.h"
#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/symbols.h"

namespace polystrate::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMappedBytes = (kMaxSharedBytes + kPage - 1) / kPage * kPage;

// Dynamic shared memory of one operating system's thread, with a guard page on either side.
class Mapping {
 public:
  Mapping() {
    void* data = mmap(nullptr, kMappedBytes + 2 * kPage, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(data != MAP_FAILED);
    begin_ = static_cast<unsigned char*>(data) + kPage;
    CHECK_EQ(mprotect(begin_, kMappedBytes, PROT_READ | PROT_WRITE), 0);
  }
  ~Mapping() { munmap(begin_ - kPage, kMappedBytes + 2 * kPage); }

  // One page below, so that no address is zero.
  unsigned char* base() const { return begin_ - kPage; }
  unsigned char* end() const { return begin_ + kMappedBytes; }

 private:
  unsigned char* begin_;
};

struct Dynamic {
  Mapping mapping;
  unsigned char* begin = mapping.end();
  size_t num_bytes = 0;
};
thread_local Dynamic dynamic;

bool Within(const void* begin, size_t num_bytes, const void* outer, size_t outer_bytes) {
  const auto* b = static_cast<const char*>(begin);
  const auto* o = static_cast<const char*>(outer);
  return b >= o && b + num_bytes <= o + outer_bytes;
}

}  // namespace

void PrepareSharedMemory(size_t dynamic_bytes) {
  CHECK_LE(dynamic_bytes, kMaxSharedBytes);
  const size_t rounded =
      (dynamic_bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
  dynamic.begin = dynamic.mapping.end() - rounded;
  dynamic.num_bytes = dynamic_bytes;
  std::memset(dynamic.begin, kPoison, rounded);
  ForgetWrites();
  char* storage = ThreadStorage();
  for (const SharedVariable& v : SharedVariables()) {
    std::memset(storage + v.offset, kPoison, v.num_bytes);
  }
}

unsigned char* DynamicSharedMemory() { return dynamic.begin; }

bool SharedMemoryIntact() {
  for (const unsigned char* p = dynamic.begin + dynamic.num_bytes; p < dynamic.mapping.end(); ++p) {
    if (*p != kPoison) return false;
  }
  return true;
}

bool InSharedMemory(const void* begin, size_t num_bytes) {
  if (Within(begin, num_bytes, dynamic.begin, dynamic.num_bytes)) return true;
  const char* storage = ThreadStorage();
  for (const SharedVariable& v : SharedVariables()) {
    if (Within(begin, num_bytes, storage + v.offset, v.num_bytes)) return true;
  }
  return false;
}

uint32_t SharedAddress(const void* pointer) {
  const auto* p = static_cast<const unsigned char*>(pointer);
  if (p < dynamic.begin || p >= dynamic.mapping.end()) return 0;
  return static_cast<uint32_t>(p - dynamic.mapping.base());
}

unsigned char* AtSharedAddress(uint32_t address) {
  unsigned char* p = dynamic.mapping.base() + address;
  return InSharedMemory(p, 1) ? p : nullptr;
}

}  // namespace polystrate::emulator
