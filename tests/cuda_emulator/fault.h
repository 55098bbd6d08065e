// What a processor's fault in a kernel means, in words.
#pragma once

namespace polystrate::emulator {

// From now on a memory or instruction fault first tells which kernel, block and thread it was in,
// or that host code touched device memory. Under AddressSanitizer, which tells of faults itself,
// nothing changes.
void NameFaults();

}  // namespace polystrate::emulator
