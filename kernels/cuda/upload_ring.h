// UploadRing: small host arrays on their way to a GPU. Page-locked memory that is written by the
// host, copied to as much device memory and used again once the stream has passed the copy.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"

struct CUevent_st;   // *: cudaEvent_t
struct CUstream_st;  // *: cudaStream_t

namespace polystrate::cuda {

class UploadRing {
 public:
  // Of two halves, each of half_bytes at first: what is uploaded stays on the device until another
  // half_bytes have been.
  static absl::StatusOr<std::unique_ptr<UploadRing>> Create(Device device, int64_t half_bytes);
  ~UploadRing();

  // Waits only for copies that were enqueued a half ago. What takes more than half of a half makes
  // the halves larger for good, so that a large array leaves those that came with it alone.
  const void* Upload(const void* data, int64_t num_bytes, CUstream_st* stream);
  // To memory of the device's that is the caller's.
  void UploadTo(void* to, const void* data, int64_t num_bytes, CUstream_st* stream);

 private:
  explicit UploadRing(Device place) : place_(place) {}
  absl::Status TakeMemory(int64_t half_bytes);
  // Puts the data where the copy to the device begins; where that is, in host_ and device_.
  int64_t Stage(const void* data, int64_t num_bytes, CUstream_st* stream);

  const Device place_;
  int64_t half_bytes_ = 0;
  Buffer host_;
  Buffer device_;
  int half_ = 0;
  int64_t used_ = 0;  // of this half
  CUevent_st* passed_[2] = {};
  std::vector<Buffer> outgrown_;  // may yet be read
};

}  // namespace polystrate::cuda
