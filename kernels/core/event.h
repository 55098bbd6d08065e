// Event: a mark in a stream, to ask whether the stream has passed it. On the CPU it always has.
#pragma once

#include "kernels/core/device.h"

struct CUevent_st;  // *: cudaEvent_t

namespace polystrate {

class Event {
 public:
  explicit Event(Device device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Puts the mark behind all that was enqueued; not while a graph is recorded.
  void Record(const Stream& stream);
  // True before the first Record, too.
  bool Passed() const;
  // What is enqueued on `stream` from now on runs after the mark.
  void Precede(const Stream& stream) const;

 private:
  CUevent_st* event_ = nullptr;  // null on the CPU
};

}  // namespace polystrate
