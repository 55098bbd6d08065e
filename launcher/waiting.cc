#include "launcher/waiting.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace polystrate {
namespace {

// libgomp lets a waiting thread spin 300,000 times, milliseconds, before it sleeps: where another
// process has the core of the thread that it waits for, each wait takes that long. Measured on two
// shared cores with Pythia-160M's shape, tokens/s of batch-1 decode, best and median of eight runs,
// the best being those that had the cores to themselves:
//   300,000 (libgomp's own)    83.8 and  9.3
//    10,000                    81.7 and 25.2
//     3,000                    82.4 and 41.5
//     1,000                    79.6 and 53.4 (another time 81.3, where libgomp's own had 82.2)
//         0 (policy passive)   73.5 and 60.0
// The next parallel region mostly follows within these 1,000, some 30 us.
constexpr char kSpinCount[] = "1000";

}  // namespace

void BoundThreadSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  char path[PATH_MAX] = {};
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) <= 0) return;
  // libgomp reads its environment when it is loaded, which is before main: hence a new start. When
  // it fails, because the file is gone, threads spin as long as libgomp likes.
  if (setenv("GOMP_SPINCOUNT", kSpinCount, /*overwrite=*/0) == 0) execv(path, argv);
}

}  // namespace polystrate
