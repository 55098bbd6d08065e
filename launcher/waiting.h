// How the threads of a rank wait for each other.
#pragma once

namespace polystrate {

// Starts this program anew, once, with a bound on how long OpenMP's threads spin before they sleep;
// does nothing when the user has said something about it. First in main, between
// BlockDrainSignals() and UnblockDrainSignals(). `argv` is main's.
void BoundThreadSpinning(char** argv);

}  // namespace polystrate
