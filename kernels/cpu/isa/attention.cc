// Online softmax (Dao 2023, arXiv:2307.08691) of one tile of query rows over a paged cache.
//
// For each step of kAttentionKeys keys: gather K and V from their blocks into float32 scratch
// (which widens bfloat16, rotates keys if asked, and hides the block table from what follows),
// scores = Q K^T, softmax update, output += P V. Bytes moved: each K and V byte of the range once
// per tile.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/multiply.h"
#include "kernels/cpu/isa/simd.h"

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

constexpr int kKeys = kAttentionKeys;
constexpr int kFewRows = 16;  // up to here reading K and V costs more than multiplying them

// Float32 scratch of one task, rows of `width` floats.
struct Scratch {
  int64_t width;
  float* query;        // [kAttentionRows, width], scaled
  float* out;          // [kAttentionRows, width], not yet divided by sum
  float* key;          // [kKeys, width]
  float* key_columns;  // [width, kKeys]
  float* value;        // [kKeys, width]
  float* scores;       // [kAttentionRows, kKeys]
  float* max;          // [kAttentionRows]
  float* sum;          // [kAttentionRows]
};

Scratch Divide(const AttentionTask& task) {
  Scratch s;
  s.width = PaddedHeadDim(task.head_dim);
  s.query = task.scratch;
  s.out = s.query + kAttentionRows * s.width;
  s.key = s.out + kAttentionRows * s.width;
  s.key_columns = s.key + kKeys * s.width;
  s.value = s.key_columns + kKeys * s.width;
  s.scores = s.value + kKeys * s.width;
  s.max = s.scores + kAttentionRows * kKeys;
  s.sum = s.max + kAttentionRows;
  return s;
}

// Copies one head to float32, zero up to `width`.
template <typename T>
inline void LoadHead(const T* from, int head_dim, int64_t width, Vec scale, float* to) {
  ForEachVector(head_dim, [&](int64_t i, int count) {
    Store(to + i, Mul(LoadUpTo(from + i, count), scale));
  });
  for (int64_t i = (head_dim + kLanes - 1) / kLanes * kLanes; i < width; i += kLanes) {
    Store(to + i, Zero());
  }
}

inline void RotateRow(float* head, const float* cos_sin, int rotary_dim) {
  const int half = rotary_dim / 2;
  ForEachVector(half, [&](int64_t i, int count) {
    const Vec a = LoadUpTo(head + i, count);
    const Vec b = LoadUpTo(head + half + i, count);
    const Vec cosine = LoadUpTo(cos_sin + i, count);
    const Vec sine = LoadUpTo(cos_sin + half + i, count);
    StoreUpTo(head + i, Sub(Mul(a, cosine), Mul(b, sine)), count);
    StoreUpTo(head + half + i, Fma(b, cosine, Mul(a, sine)), count);
  });
}

// The rows of one position and those that follow it in its block.
template <typename T>
struct Run {
  const T* rows;
  int64_t length;
};

template <typename T>
inline Run<T> RunAt(const AttentionTask& task, const void* cache, int64_t position) {
  const int64_t offset = position % task.block_size;
  const int64_t block = task.block_table[position / task.block_size];
  return {static_cast<const T*>(cache) + block * task.block_stride + offset * task.head_dim,
          task.block_size - offset};
}

// Copies `rows` heads that follow each other to float32 rows of `width`.
template <typename T>
inline void LoadRows(const T* from, int rows, int head_dim, int64_t width, float* to) {
  if (width == head_dim) {  // no padding: all rows are one
    ForEachVector(rows * width, [&](int64_t i, int) { Store(to + i, Load(from + i)); });
    return;
  }
  for (int r = 0; r < rows; ++r) {
    LoadHead(from + int64_t{r} * head_dim, head_dim, width, Set(1.0f), to + r * width);
  }
}

// Copies positions [begin, begin + count) of `cache` to float32 rows, one block's run after
// another. Meanwhile asks for those of the next step: blocks lie anywhere, which no hardware
// foresees.
template <typename T>
void Gather(const AttentionTask& task, const void* cache, int64_t begin, int count, int64_t width,
            float* to) {
  constexpr int64_t kPerLine = 64 / sizeof(T);
  for (int j = 0; j < count;) {
    const Run<T> run = RunAt<T>(task, cache, begin + j);
    const int rows = static_cast<int>(run.length < count - j ? run.length : count - j);
    if (begin + j + kKeys < task.key_end) {
      const Run<T> next = RunAt<T>(task, cache, begin + j + kKeys);
      const int64_t next_rows = next.length < rows ? next.length : rows;
      for (int64_t i = 0; i < next_rows * task.head_dim; i += kPerLine) Prefetch(next.rows + i);
    }
    LoadRows(run.rows, rows, task.head_dim, width, to + j * width);
    j += rows;
  }
}

// Keys as above, rotated if asked, and followed by zeros up to a whole vector of keys: what is
// multiplied must be finite.
template <typename T>
void GatherKeys(const AttentionTask& task, int64_t begin, int count, const Scratch& s) {
  Gather<T>(task, task.key, begin, count, s.width, s.key);
  int j = 0;
  for (; j < count && task.cos_sin != nullptr; ++j) {
    RotateRow(s.key + j * s.width, task.cos_sin + (begin + j) * task.rotary_dim, task.rotary_dim);
  }
  for (j = count; j % kLanes != 0; ++j) {
    for (int64_t i = 0; i < s.width; i += kLanes) Store(s.key + j * s.width + i, Zero());
  }
}

void TransposeKeys(int count, const Scratch& s) {
  for (int j = 0; j < count; j += kLanes) {
    for (int64_t i = 0; i < s.width; i += kLanes) {
      Vec v[kLanes];
      POLYSTRATE_UNROLL
      for (int r = 0; r < kLanes; ++r) v[r] = Load(s.key + (j + r) * s.width + i);
      Transpose(v);
      POLYSTRATE_UNROLL
      for (int r = 0; r < kLanes; ++r) Store(s.key_columns + (i + r) * kKeys + j, v[r]);
    }
  }
}

// Scores of one row with the kLanes keys in s.key as dot products.
Vec DotScores(const float* query, const Scratch& s) {
  Vec acc[kLanes];
  POLYSTRATE_UNROLL
  for (int key = 0; key < kLanes; ++key) acc[key] = Zero();
  for (int64_t i = 0; i < s.width; i += kLanes) {
    const Vec q = Load(query + i);
    POLYSTRATE_UNROLL
    for (int key = 0; key < kLanes; ++key) {
      acc[key] = Fma(q, Load(s.key + key * s.width + i), acc[key]);
    }
  }
  return TransposeSum(acc);
}

// Turns the first `visible` scores of row r into weights, zeroes those up to `padded`, and rescales
// what the row has gathered so far. visible >= 1.
void UpdateSoftmax(int r, int visible, int padded, const Scratch& s) {
  float* scores = s.scores + r * kKeys;
  const Vec infinity = Set(__builtin_inff());
  Vec max = Sub(Zero(), infinity);
  ForEachVector(visible, [&](int64_t i, int count) {
    if (count < kLanes) {
      for (int j = static_cast<int>(i) + count; j < padded; ++j) scores[j] = -__builtin_inff();
    }
    max = Max(max, Load(scores + i));
  });
  const float row_max = ReduceMax(max);
  const float new_max = row_max > s.max[r] ? row_max : s.max[r];
  Vec sum = Zero();
  for (int i = 0; i < padded; i += kLanes) {
    const Vec e = i < visible ? Exp(Sub(Load(scores + i), Set(new_max))) : Zero();
    Store(scores + i, e);
    sum = Add(sum, e);
  }
  if (new_max == s.max[r]) {
    s.sum[r] += ReduceAdd(sum);
    return;
  }
  float rescale[kLanes];
  Store(rescale, Exp(Set(s.max[r] - new_max)));
  s.max[r] = new_max;
  s.sum[r] = s.sum[r] * rescale[0] + ReduceAdd(sum);
  float* out = s.out + r * s.width;
  for (int64_t i = 0; i < s.width; i += kLanes) {
    Store(out + i, Mul(Load(out + i), Set(rescale[0])));
  }
}

// Rows [first, first + rows) of the task and the keys [begin, begin + count).
struct StepRange {
  int64_t begin;
  int count;
  int first;
  int rows;
};

// Few rows: the cache's bytes are what costs. K and V are taken kLanes rows at a time, so that the
// memory always has requests to work on while these are multiplied.
template <typename T>
void ScoreFewRows(const AttentionTask& task, const StepRange& step, const Scratch& s) {
  for (int j = 0; j < step.count; j += kLanes) {
    const int count = step.count - j < kLanes ? step.count - j : kLanes;
    GatherKeys<T>(task, step.begin + j, count, s);
    for (int r = step.first; r < step.first + step.rows; ++r) {
      Store(s.scores + r * kKeys + j, DotScores(s.query + r * s.width, s));
    }
  }
}

template <typename T>
void WeighFewRows(const AttentionTask& task, const StepRange& step, const Scratch& s) {
  for (int j = 0; j < step.count; j += kLanes) {
    const int count = step.count - j < kLanes ? step.count - j : kLanes;
    Gather<T>(task, task.value, step.begin + j, count, s.width, s.value);
    Multiply({s.scores + step.first * kKeys + j, kKeys, s.value, s.width,
              s.out + step.first * s.width, s.width, step.rows, count, true},
             s.width);
  }
}

// Many rows: arithmetic is what costs. One transposition of K serves all rows.
template <typename T>
void ScoreManyRows(const AttentionTask& task, const StepRange& step, const Scratch& s) {
  GatherKeys<T>(task, step.begin, step.count, s);
  TransposeKeys(step.count, s);
  Multiply({s.query + step.first * s.width, s.width, s.key_columns, kKeys,
            s.scores + step.first * kKeys, kKeys, step.rows, task.head_dim, false},
           (step.count + kLanes - 1) / kLanes * kLanes);
}

template <typename T>
void WeighManyRows(const AttentionTask& task, const StepRange& step, const Scratch& s) {
  Gather<T>(task, task.value, step.begin, step.count, s.width, s.value);
  Multiply({s.scores + step.first * kKeys, kKeys, s.value, s.width, s.out + step.first * s.width,
            s.width, step.rows, step.count, true},
           s.width);
}

// One step: keys [begin, begin + count), of which row r may see those up to its own position.
template <typename T>
void Step(const AttentionTask& task, int64_t begin, int count, const Scratch& s) {
  // Rows whose token lies before the first key of the step see nothing of it; they come first.
  const int64_t hidden = (begin - task.first_position) * task.num_heads - task.first_row;
  const int first = hidden > 0 ? static_cast<int>(hidden) : 0;
  if (first >= task.num_rows) return;
  const StepRange step = {begin, count, first, task.num_rows - first};
  const bool few_rows = task.num_rows <= kFewRows;
  few_rows ? ScoreFewRows<T>(task, step, s) : ScoreManyRows<T>(task, step, s);
  for (int r = first; r < task.num_rows; ++r) {
    const int64_t position = task.first_position + (task.first_row + r) / task.num_heads;
    const int64_t visible = position + 1 - begin;
    UpdateSoftmax(r, visible < count ? static_cast<int>(visible) : count,
                  (count + kLanes - 1) / kLanes * kLanes, s);
  }
  few_rows ? WeighFewRows<T>(task, step, s) : WeighManyRows<T>(task, step, s);
}

template <typename T>
void WriteResults(const AttentionTask& task, const Scratch& s) {
  for (int r = 0; r < task.num_rows; ++r) {
    const float* out = s.out + r * s.width;
    if (task.partial != nullptr) {
      float* partial = task.partial + r * PartialStride(task.head_dim);
      partial[0] = s.max[r];
      partial[1] = s.sum[r];
      for (int64_t i = 0; i < s.width; i += kLanes) Store(partial + 16 + i, Load(out + i));
      continue;
    }
    const int64_t row = task.first_row + r;
    T* to = static_cast<T*>(task.out) + row / task.num_heads * task.out_stride +
            row % task.num_heads * task.head_dim;
    const Vec sum = Set(s.sum[r]);
    ForEachVector(task.head_dim,
                  [&](int64_t i, int count) { StoreUpTo(to + i, Div(Load(out + i), sum), count); });
  }
}

template <typename T>
void Attend(const AttentionTask& task) {
  const Scratch s = Divide(task);
  for (int r = 0; r < task.num_rows; ++r) {
    const int64_t row = task.first_row + r;
    const T* query = static_cast<const T*>(task.query) + row / task.num_heads * task.query_stride +
                     row % task.num_heads * task.head_dim;
    LoadHead(query, task.head_dim, s.width, Set(task.scale), s.query + r * s.width);
    for (int64_t i = 0; i < s.width; i += kLanes) Store(s.out + r * s.width + i, Zero());
    s.max[r] = -__builtin_inff();
    s.sum[r] = 0.0f;
  }
  for (int64_t begin = task.key_begin; begin < task.key_end; begin += kKeys) {
    const int64_t rest = task.key_end - begin;
    const int count = rest < kKeys ? static_cast<int>(rest) : kKeys;
    Step<T>(task, begin, count, s);
  }
  WriteResults<T>(task, s);
}

}  // namespace

void AttendFloat32(const AttentionTask& task) { Attend<float>(task); }
void AttendBFloat16(const AttentionTask& task) { Attend<uint16_t>(task); }

}  // namespace polystrate::cpu::POLYSTRATE_ISA
