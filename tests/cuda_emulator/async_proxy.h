// What products of warpgroups see of shared memory. They are of another "proxy" than ordinary
// instructions and cp.async, and see what those wrote only once the thread that wrote has fenced
// it, before it told others. Writes are known from cp.async and StoreShared (kernels/cuda/ptx.cuh);
// what a kernel stores in other ways counts as seen.
#pragma once

namespace polystrate::emulator {

// A block begins: nothing has been written.
void ForgetWrites();
// The thread that runs has written the 16 bytes at `to`, in dynamic shared memory.
void RecordWrite(const void* to);
// fence.proxy.async of the thread that runs.
void FenceProducts();
// The thread that runs tells others that it has written: a fence comes too late from here on.
void TellOfWrites();
// Whether products see what the 16 bytes at `at` hold.
bool ProductsSee(const void* at);

}  // namespace polystrate::emulator
