#include "engine/step_plan.h"

#include <cstring>
#include <type_traits>

#include "kernels/core/check.h"

namespace polystrate {
namespace {

class Writer {
 public:
  template <typename T>
  void Put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    Append(&value, sizeof(T));
  }
  template <typename T>
  void Put(const std::vector<T>& values) {
    static_assert(std::is_trivially_copyable_v<T>);
    Put<uint64_t>(values.size());
    Append(values.data(), values.size() * sizeof(T));
  }
  std::vector<uint8_t> Take() { return std::move(bytes_); }

 private:
  void Append(const void* data, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }
  std::vector<uint8_t> bytes_;
};

class Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}
  ~Reader() { CHECK_EQ(offset_, bytes_.size()); }

  template <typename T>
  void Get(T& value) {
    Copy(&value, sizeof(T));
  }
  template <typename T>
  void Get(std::vector<T>& values) {
    uint64_t size = 0;
    Get(size);
    CHECK_LE(size, bytes_.size() / sizeof(T));
    values.resize(size);
    Copy(values.data(), size * sizeof(T));
  }

 private:
  void Copy(void* to, size_t size) {
    CHECK_LE(size, bytes_.size() - offset_);
    if (size > 0) std::memcpy(to, bytes_.data() + offset_, size);
    offset_ += size;
  }
  const std::vector<uint8_t>& bytes_;
  size_t offset_ = 0;
};

}  // namespace

void StepPlan::Reserve(int64_t sequences) {
  const auto n = static_cast<size_t>(sequences);
  for (auto* values : {&token_ids, &positions, &slot_mapping, &context_lens, &table_rows}) {
    values->reserve(n);
  }
  cu_seqlens_q.reserve(n + 1);
  samples.reserve(n);
}

std::vector<uint8_t> StepPlan::ToBytes() const {
  Writer w;
  w.Put(step_id);
  w.Put(stop);
  w.Put(feed);
  w.Put(token_ids);
  w.Put(positions);
  w.Put(slot_mapping);
  w.Put(cu_seqlens_q);
  w.Put(context_lens);
  w.Put(table_rows);
  w.Put(new_blocks);
  w.Put(max_blocks);
  w.Put(samples);
  w.Put(scores);
  w.Put(history);
  w.Put(biases);
  return w.Take();
}

StepPlan StepPlan::FromBytes(const std::vector<uint8_t>& bytes) {
  StepPlan plan;
  Reader r(bytes);
  r.Get(plan.step_id);
  r.Get(plan.stop);
  r.Get(plan.feed);
  r.Get(plan.token_ids);
  r.Get(plan.positions);
  r.Get(plan.slot_mapping);
  r.Get(plan.cu_seqlens_q);
  r.Get(plan.context_lens);
  r.Get(plan.table_rows);
  r.Get(plan.new_blocks);
  r.Get(plan.max_blocks);
  r.Get(plan.samples);
  r.Get(plan.scores);
  r.Get(plan.history);
  r.Get(plan.biases);
  return plan;
}

std::vector<uint8_t> StepResult::ToBytes() const {
  Writer w;
  w.Put(step_id);
  w.Put(samples);
  w.Put(scores);
  w.Put(candidates);
  return w.Take();
}

StepResult StepResult::FromBytes(const std::vector<uint8_t>& bytes) {
  StepResult result;
  Reader r(bytes);
  r.Get(result.step_id);
  r.Get(result.samples);
  r.Get(result.scores);
  r.Get(result.candidates);
  return result;
}

}  // namespace polystrate
