// CUDA events, for Event (kernels/core/event.h).
#pragma once

struct CUevent_st;
struct CUstream_st;

namespace polystrate::cuda {

CUevent_st* CreateEvent(int device);
void DestroyEvent(CUevent_st* event);
void RecordEvent(CUevent_st* event, CUstream_st* stream);
bool EventPassed(CUevent_st* event);
void WaitForEvent(CUstream_st* stream, CUevent_st* event);

}  // namespace polystrate::cuda
