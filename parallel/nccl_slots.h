// NcclSlots: memory of a GPU for messages on their way in one direction, so that neither the stream
// that computes nor the one that carries messages waits for the other while it need not.
#pragma once

#include <array>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

struct CUevent_st;   // *: cudaEvent_t
struct CUstream_st;  // *: cudaStream_t

namespace polystrate {

// Filled by one stream, emptied by another, over and over.
class NcclSlot {
 public:
  NcclSlot();
  ~NcclSlot();
  NcclSlot(const NcclSlot&) = delete;
  NcclSlot& operator=(const NcclSlot&) = delete;

  // Memory for a message like x, contents undefined; where it is too small, the host waits until
  // the message before has left, and takes more.
  Tensor Like(const Tensor& x);
  // `filler` waits until the message before has left.
  void Claim(CUstream_st* filler) const;
  // What `filler` has been given fills the slot; `emptier` waits for it.
  void HandOver(CUstream_st* filler, CUstream_st* emptier) const;
  // What `emptier` has been given empties it.
  void Release(CUstream_st* emptier) const;

 private:
  Buffer buffer_;
  CUevent_st* filled_ = nullptr;
  CUevent_st* emptied_ = nullptr;
};

// Two by turns: a message is on its way while the next is written.
class NcclSlots {
 public:
  NcclSlot& Next() { return slots_[turn_++ % slots_.size()]; }

 private:
  std::array<NcclSlot, 2> slots_;
  size_t turn_ = 0;
};

}  // namespace polystrate
