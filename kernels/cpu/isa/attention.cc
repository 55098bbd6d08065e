// Online softmax (Dao 2023, arXiv:2307.08691) of one tile of query rows over a paged cache.
//
// For each step of kAttentionKeys keys: gather K and V from their blocks into float32 scratch
// (which widens bfloat16, rotates keys if asked, and hides the block table from what follows),
// scores = Q K^T, softmax update, output += P V. Bytes moved: each K and V byte of the range once
// per tile.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/simd.h"

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

constexpr int kKeys = kAttentionKeys;
constexpr int kTileRows = 6;
constexpr int kTileVectors = kVectorRegisters / 8;  // 6 x 4 or 6 x 2 sums in registers
constexpr int kFewRows = 4;  // up to here the scores are dot products; beyond, K is transposed

// c[kRows, kVectors * kLanes] = (accumulate ? c : 0) + a[kRows, k] b[k, ...]
template <int kRows, int kVectors>
POLYSTRATE_INLINE void MultiplyTile(const float* a, int64_t a_stride, const float* b,
                                    int64_t b_stride, int k, float* c, int64_t c_stride,
                                    bool accumulate) {
  Vec acc[kRows][kVectors];
  POLYSTRATE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = accumulate ? Load(c + r * c_stride + v * kLanes) : Zero();
    }
  }
  for (int i = 0; i < k; ++i) {
    Vec column[kVectors];
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) column[v] = Load(b + i * b_stride + v * kLanes);
    POLYSTRATE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec x = Set(a[r * a_stride + i]);
      POLYSTRATE_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Fma(x, column[v], acc[r][v]);
    }
  }
  POLYSTRATE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) Store(c + r * c_stride + v * kLanes, acc[r][v]);
  }
}

struct Matrices {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int rows;
  int k;
  bool accumulate;
};

template <int kVectors>
void MultiplyColumns(const Matrices& m, int64_t column) {
  int r = 0;
  const float* b = m.b + column;
  float* c = m.c + column;
  for (; r + kTileRows <= m.rows; r += kTileRows) {
    MultiplyTile<kTileRows, kVectors>(m.a + r * m.a_stride, m.a_stride, b, m.b_stride, m.k,
                                      c + r * m.c_stride, m.c_stride, m.accumulate);
  }
  const float* a = m.a + r * m.a_stride;
  c += r * m.c_stride;
  switch (m.rows - r) {
    case 1:
      return MultiplyTile<1, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 2:
      return MultiplyTile<2, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 3:
      return MultiplyTile<3, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 4:
      return MultiplyTile<4, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 5:
      return MultiplyTile<5, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
  }
}

// Columns [0, n) in steps of whole vectors; n is a multiple of kLanes.
void Multiply(const Matrices& m, int64_t n) {
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= n; column += kTileVectors * kLanes) {
    MultiplyColumns<kTileVectors>(m, column);
  }
  for (; column < n; column += kLanes) MultiplyColumns<1>(m, column);
}

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

// Keys [begin, begin + count) and their values into scratch, one block's run of rows after another.
template <typename T>
void Gather(const AttentionTask& task, int64_t begin, int count, const Scratch& s) {
  const Vec one = Set(1.0f);
  int j = 0;
  while (j < count) {
    const int64_t position = begin + j;
    const int64_t offset = position % task.block_size;
    const int64_t start =
        task.block_table[position / task.block_size] * task.block_stride + offset * task.head_dim;
    const int end = count - j < task.block_size - offset
                        ? count
                        : j + static_cast<int>(task.block_size - offset);
    const T* key = static_cast<const T*>(task.key) + start;
    const T* value = static_cast<const T*>(task.value) + start;
    for (; j < end; ++j, key += task.head_dim, value += task.head_dim) {
      LoadHead(key, task.head_dim, s.width, one, s.key + j * s.width);
      LoadHead(value, task.head_dim, s.width, one, s.value + j * s.width);
      if (task.cos_sin != nullptr) {
        RotateRow(s.key + j * s.width, task.cos_sin + (begin + j) * task.rotary_dim,
                  task.rotary_dim);
      }
    }
  }
  // Whole vectors of keys are multiplied; what lies behind the last one must be finite.
  for (; j % kLanes != 0; ++j) {
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

// scores of one row as dot products, kLanes keys at a time.
void DotScores(const float* query, int count, const Scratch& s, float* scores) {
  for (int j = 0; j < count; j += kLanes) {
    Vec acc[kLanes];
    POLYSTRATE_UNROLL
    for (int key = 0; key < kLanes; ++key) acc[key] = Zero();
    for (int64_t i = 0; i < s.width; i += kLanes) {
      const Vec q = Load(query + i);
      POLYSTRATE_UNROLL
      for (int key = 0; key < kLanes; ++key) {
        acc[key] = Fma(q, Load(s.key + (j + key) * s.width + i), acc[key]);
      }
    }
    Store(scores + j, TransposeSum(acc));
  }
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

// One step: keys [begin, begin + count), of which row r may see those below its own position.
void Step(const AttentionTask& task, int64_t begin, int count, const Scratch& s) {
  // Rows whose token lies before the first key of the step see nothing of it; they come first.
  int64_t hidden = (begin - task.first_position) * task.num_heads - task.first_row;
  const int first = hidden > 0 ? static_cast<int>(hidden) : 0;
  if (first >= task.num_rows) return;
  const int rows = task.num_rows - first;
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  float* scores = s.scores + first * kKeys;
  const float* query = s.query + first * s.width;
  if (task.num_rows <= kFewRows) {
    for (int r = 0; r < rows; ++r) {
      DotScores(query + r * s.width, count, s, scores + r * kKeys);
    }
  } else {
    TransposeKeys(count, s);
    Multiply({query, s.width, s.key_columns, kKeys, scores, kKeys, rows, task.head_dim, false},
             padded);
  }
  for (int r = first; r < task.num_rows; ++r) {
    const int64_t position = task.first_position + (task.first_row + r) / task.num_heads;
    const int64_t visible = position + 1 - begin;
    UpdateSoftmax(r, visible < count ? static_cast<int>(visible) : count, padded, s);
  }
  Multiply({scores, kKeys, s.value, s.width, s.out + first * s.width, s.width, rows, count, true},
           s.width);
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
    Gather<T>(task, begin, count, s);
    Step(task, begin, count, s);
  }
  WriteResults<T>(task, s);
}

}  // namespace

void AttendFloat32(const AttentionTask& task) { Attend<float>(task); }
void AttendBFloat16(const AttentionTask& task) { Attend<uint16_t>(task); }

}  // namespace polystrate::cpu::POLYSTRATE_ISA
