#include "parallel/stage_plan.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Costs of layer ranges from one prefix-sum table.
class RangeCosts {
 public:
  RangeCosts(const KvSharing& sharing, const StageCosts& costs) : costs_(costs) {
    CHECK(sharing.Validate().ok());
    CHECK_EQ(costs.layer.size(), sharing.kv_source.size());
    prefix_.push_back(0);
    for (double cost : costs.layer) prefix_.push_back(prefix_.back() + cost);
  }

  double Of(int first_layer, int end_layer) const {
    double cost = prefix_[end_layer] - prefix_[first_layer];
    if (first_layer == 0) cost += costs_.first_stage;
    if (end_layer + 1 == static_cast<int>(prefix_.size())) cost += costs_.last_stage;
    return cost;
  }

 private:
  const StageCosts& costs_;
  std::vector<double> prefix_;
};

StagePlan MakePlan(const KvSharing& sharing, const RangeCosts& costs,
                   const std::vector<int>& cuts) {
  StagePlan plan;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Stage stage = {cuts[i], cuts[i + 1], costs.Of(cuts[i], cuts[i + 1]), {}};
    for (int l = stage.first_layer; l < stage.end_layer; ++l) {
      if (sharing.owns(l)) stage.owners.push_back(l);
    }
    plan.stages.push_back(std::move(stage));
  }
  return plan;
}

std::string DescribeLegalCuts(const KvSharing& sharing) {
  const std::vector<int> cuts = sharing.legal_cuts();
  if (cuts.empty()) return "there is no legal cut";
  if (cuts.size() == 1) return absl::StrCat("the only legal cut is ", cuts[0]);
  return absl::StrCat("the legal cuts are ", absl::StrJoin(cuts, ","));
}

// The best way to split the points [i, end] into a number of stages, for every i.
struct Row {
  std::vector<double> value;  // [points]; infinite where it cannot be done
  std::vector<int> next;      // [points]; the point where the first of those stages ends
};

// One row per number of stages, rows[0] for none: `combine` joins the cost of a stage with the
// value of what follows it, and the smallest result wins. `tolerance` is relative: results that
// differ by less are ties, and a tie goes to the earlier cut.
template <typename Combine>
std::vector<Row> SplitRows(const std::vector<int>& points, const RangeCosts& costs, int pp_size,
                           double tolerance, const Combine& combine) {
  const int last = static_cast<int>(points.size()) - 1;
  std::vector<Row> rows(pp_size + 1, {std::vector<double>(points.size(), kInfinity),
                                      std::vector<int>(points.size(), last)});
  rows[0].value[last] = 0;
  for (int s = 1; s <= pp_size; ++s) {
    for (int i = 0; i < last; ++i) {
      for (int j = i + 1; j <= last; ++j) {
        const double rest = rows[s - 1].value[j];
        const double value = combine(costs.Of(points[i], points[j]), rest);
        if (value < rows[s].value[i] * (1 - tolerance)) {
          rows[s].value[i] = value;
          rows[s].next[i] = j;
        }
      }
    }
  }
  return rows;
}

}  // namespace

absl::StatusOr<StagePlan> PlanStages(const KvSharing& sharing, const StageCosts& costs,
                                     int pp_size) {
  const RangeCosts range_costs(sharing, costs);
  std::vector<int> points = sharing.legal_cuts();
  const int largest_pp = static_cast<int>(points.size()) + 1;
  if (pp_size < 1 || pp_size > largest_pp) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pp ", pp_size,
                     " is not possible for this model: layers that share a KV cache must stay "
                     "in one stage, and ",
                     DescribeLegalCuts(sharing), "; expected 1",
                     largest_pp > 1 ? absl::StrCat(" to ", largest_pp) : ""));
  }
  points.insert(points.begin(), 0);
  points.push_back(sharing.num_layers());

  // Two passes, because a prefix with the smallest maximum need not have the smallest squares:
  // first the bound, then the squares among the cuts that keep to it.
  const double bound =
      SplitRows(points, range_costs, pp_size, 0,
                [](double cost, double rest) { return std::max(cost, rest); })[pp_size]
          .value[0];
  // Squares of shares of the bound: costs of large models squared would leave the exact integers.
  // Sums of the same squares in another order are still ties.
  const std::vector<Row> rows =
      SplitRows(points, range_costs, pp_size, 1e-12, [bound](double cost, double rest) {
        const double share = bound > 0 ? cost / bound : 0;
        return cost > bound ? kInfinity : share * share + rest;
      });
  std::vector<int> cuts = {0};
  for (int s = pp_size, i = 0; s > 0; --s) {
    i = rows[s].next[i];
    cuts.push_back(points[i]);
  }
  return MakePlan(sharing, range_costs, cuts);
}

absl::StatusOr<StagePlan> StagesFromCuts(const KvSharing& sharing, const StageCosts& costs,
                                         int pp_size, const std::vector<int>& cuts) {
  const RangeCosts range_costs(sharing, costs);
  const std::string flag = absl::StrCat("--stages ", absl::StrJoin(cuts, ","));
  const int num_layers = sharing.num_layers();
  const auto not_ascending = [](int a, int b) { return a >= b; };
  if (cuts.size() < 2 || cuts.front() != 0 || cuts.back() != num_layers ||
      std::adjacent_find(cuts.begin(), cuts.end(), not_ascending) != cuts.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": expected the first layer of every stage and the end, ascending from ",
                     "0 to ", num_layers, ", the number of layers"));
  }
  if (static_cast<int>(cuts.size()) != pp_size + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " makes ", cuts.size() - 1, " stages, but --pp is ", pp_size,
                     "; expected ", pp_size + 1, " numbers, or --pp ", cuts.size() - 1));
  }
  const auto stage_of = [&cuts](int layer) {
    return std::upper_bound(cuts.begin(), cuts.end(), layer) - cuts.begin() - 1;
  };
  for (int reader = 0; reader < num_layers; ++reader) {
    const int owner = sharing.kv_source[reader];
    if (stage_of(owner) == stage_of(reader)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " splits a KV group: layer ", reader, " (stage ", stage_of(reader),
                     ") reads the KV cache of layer ", owner, " (stage ", stage_of(owner),
                     "); both must be in one stage, and ", DescribeLegalCuts(sharing)));
  }
  return MakePlan(sharing, range_costs, cuts);
}

}  // namespace polystrate
