#include "tests/cuda_emulator/memory.h"

#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/core/check.h"
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;

struct Allocation {
  MemoryKind kind;
  int device = 0;
  size_t num_bytes = 0;
  void* mapping = nullptr;
  size_t mapping_bytes = 0;  // the last page is a guard
};

struct Registry {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;  // by address
  std::map<int, size_t> used_bytes;             // by device
};
Registry& TheRegistry() {
  static Registry* const registry = new Registry;
  return *registry;
}

// The protection key of device memory; -1 where the processor has none.
int DeviceKey() {
  static const int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  return key;
}

thread_local int num_accesses = 0;

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

// What lies between the end of an allocation and its guard page.
bool MarginIntact(uintptr_t begin, const Allocation& allocation) {
  const auto* end = reinterpret_cast<const unsigned char*>(begin + allocation.num_bytes);
  const auto* guard =
      static_cast<const unsigned char*>(allocation.mapping) + allocation.mapping_bytes - kPage;
  for (; end < guard; ++end) {
    if (*end != kPoison) return false;
  }
  return true;
}

}  // namespace

void* AllocateMemory(MemoryKind kind, int device, size_t num_bytes) {
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const size_t room = RoundUp(num_bytes, kAlignment);
  if (kind == MemoryKind::kDevice) {
    if (room > kDeviceBytes - registry.used_bytes[device]) return nullptr;
    registry.used_bytes[device] += room;
  }
  Allocation allocation = {kind, device, num_bytes};
  const size_t usable = RoundUp(room, kPage);
  allocation.mapping_bytes = usable + kPage;
  allocation.mapping = mmap(nullptr, allocation.mapping_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(allocation.mapping != MAP_FAILED);
  madvise(allocation.mapping, usable, MADV_HUGEPAGE);  // a refusal does not matter
  std::memset(allocation.mapping, kPoison, usable);
  char* end = static_cast<char*>(allocation.mapping) + usable;
  CHECK_EQ(mprotect(end, kPage, PROT_NONE), 0);
  if (kind == MemoryKind::kDevice && DeviceKey() != -1) {
    CHECK_EQ(pkey_mprotect(allocation.mapping, usable, PROT_READ | PROT_WRITE, DeviceKey()), 0);
  }
  registry.allocations[reinterpret_cast<uintptr_t>(end - room)] = allocation;
  return end - room;
}

bool FreeMemory(MemoryKind kind, void* data) {
  const DeviceAccess access;
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const auto found = registry.allocations.find(begin);
  if (found == registry.allocations.end() || found->second.kind != kind) return false;
  const Allocation& allocation = found->second;
  if (!MarginIntact(begin, allocation)) {
    KernelFault("something wrote behind an allocation of " + std::to_string(allocation.num_bytes) +
                " bytes");
  }
  if (kind == MemoryKind::kDevice) {
    registry.used_bytes[allocation.device] -= RoundUp(allocation.num_bytes, kAlignment);
  }
  munmap(allocation.mapping, allocation.mapping_bytes);
  registry.allocations.erase(found);
  return true;
}

size_t UsedBytes(int device) {
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  return registry.used_bytes[device];
}

Residence FindMemory(const void* begin, size_t num_bytes) {
  Registry& registry = TheRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  auto next = registry.allocations.upper_bound(address);
  if (next == registry.allocations.begin()) return Residence::kPageable;
  const auto& [found, allocation] = *--next;
  if (address >= found + allocation.num_bytes && allocation.num_bytes > 0) {
    return Residence::kPageable;
  }
  if (address + num_bytes > found + allocation.num_bytes) return Residence::kBeyondEnd;
  return allocation.kind == MemoryKind::kDevice ? Residence::kDevice : Residence::kPinned;
}

DeviceAccess::DeviceAccess() {
  if (num_accesses++ == 0 && DeviceKey() != -1) pkey_set(DeviceKey(), 0);
}

DeviceAccess::~DeviceAccess() {
  if (--num_accesses == 0 && DeviceKey() != -1) pkey_set(DeviceKey(), PKEY_DISABLE_ACCESS);
}

}  // namespace polystrate::emulator
