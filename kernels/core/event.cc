#include "kernels/core/event.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/events.h"

namespace polystrate {

Event::Event(Device device)
    : event_(device.type == DeviceType::kCuda ? cuda::CreateEvent(device.index) : nullptr) {}

Event::~Event() {
  if (event_ != nullptr) cuda::DestroyEvent(event_);
}

void Event::Record(const Stream& stream) {
  if (event_ != nullptr) cuda::RecordEvent(event_, stream.cuda().stream());
}

bool Event::Passed() const { return event_ == nullptr || cuda::EventPassed(event_); }

void Event::Precede(const Stream& stream) const {
  if (event_ != nullptr) cuda::WaitForEvent(stream.cuda().stream(), event_);
}

}  // namespace polystrate
