// ParallelFor: the one place where the CPU operators start threads.
//
// OpenMP, because oneDNN of Debian runs on it too: a second pool would fight the first for the
// cores.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/cpu/context.h"

namespace polystrate::cpu {

// body(task, thread) for every task in [0, num_tasks), in any order. `work` is the size of all
// tasks together. With one thread there is no parallel region at all: ranks may share cores.
template <typename Body>
void ParallelFor(const CpuContext& context, int64_t num_tasks, int64_t work, const Body& body) {
  if (context.num_threads() == 1 || num_tasks <= 1 || work < context.min_parallel_work()) {
    for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
#pragma omp parallel for num_threads(context.num_threads()) schedule(dynamic, 1)
  for (int64_t task = 0; task < num_tasks; ++task) body(task, omp_get_thread_num());
}

// The same for `n` items in runs of at least `grain`: body(begin, end, thread).
template <typename Body>
void ParallelForRanges(const CpuContext& context, int64_t n, int64_t grain, int64_t work,
                       const Body& body) {
  const int64_t num_ranges = (n + grain - 1) / grain;
  ParallelFor(context, num_ranges, work, [&](int64_t range, int thread) {
    const int64_t begin = range * grain;
    body(begin, begin + grain < n ? begin + grain : n, thread);
  });
}

}  // namespace polystrate::cpu
