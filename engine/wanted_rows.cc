#include "engine/wanted_rows.h"

namespace polystrate {

void WantedRows::Reserve(int64_t max_tokens) {
  // A sequence has a token at least, so there are no more sequences than tokens.
  for (std::vector<int32_t>* list : {&rows, &positions, &cu_seqlens_q, &index}) {
    list->reserve(static_cast<size_t>(max_tokens + 1));
  }
}

void WantedRows::Find(const StepPlan& plan) {
  constexpr int32_t kUnwanted = -1;
  index.assign(plan.token_ids.size(), kUnwanted);
  for (const SamplePoint& point : plan.samples) index[point.row] = 0;
  for (const ScorePoint& point : plan.scores) index[point.row] = 0;
  rows.clear();
  positions.clear();
  cu_seqlens_q.assign(1, 0);
  for (int64_t seq = 0; seq < plan.num_seqs(); ++seq) {
    const int32_t end = plan.cu_seqlens_q[seq + 1];
    int32_t row = plan.cu_seqlens_q[seq];
    while (row < end && index[row] == kUnwanted) ++row;
    for (; row < end; ++row) {
      index[row] = static_cast<int32_t>(rows.size());
      rows.push_back(row);
      positions.push_back(plan.positions[row]);
    }
    cu_seqlens_q.push_back(static_cast<int32_t>(rows.size()));
  }
  all = rows.size() == plan.token_ids.size();
}

}  // namespace polystrate
