// The emulated devices' memory, and the page-locked memory of their host.
#pragma once

#include <cstddef>

namespace polystrate::emulator {

constexpr size_t kDeviceBytes = size_t{1} << 30;  // of each device

enum class MemoryKind { kDevice, kPinned };

// Poisoned, aligned to 256, its end where nothing may be touched. Null when the device has no room.
void* AllocateMemory(MemoryKind kind, int device, size_t num_bytes);
// False when `data` is not the beginning of such memory. Ends the program when something was
// written in the few bytes between its end and the page's.
bool FreeMemory(MemoryKind kind, void* data);
size_t UsedBytes(int device);

// What a copy may do with an address.
enum class Residence { kPageable, kPinned, kDevice, kBeyondEnd };
Residence FindMemory(const void* begin, size_t num_bytes);

// While one lives, the calling thread may touch device memory. They nest.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace polystrate::emulator
