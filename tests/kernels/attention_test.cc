#include <cmath>
#include <optional>

#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr double kBase = 10000.0;

struct SequenceShape {
  int64_t num_queries;
  int64_t context_len;
};

struct AttentionShape {
  int head_dim = 64;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int queries_per_kv_head = 2;
  int phase = 0;
  int64_t block_size = 16;
  int rotary_dim = 0;        // > 0: the cache holds unrotated keys
  int64_t query_margin = 0;  // elements by which the query's rows lie further apart
  std::vector<SequenceShape> sequences;
};

std::string Describe(const AttentionShape& s) {
  std::string text = "head_dim " + std::to_string(s.head_dim) + " heads " +
                     std::to_string(s.num_heads) + " kv " + std::to_string(s.num_kv_heads) +
                     " group " + std::to_string(s.queries_per_kv_head) + " phase " +
                     std::to_string(s.phase) + " block " + std::to_string(s.block_size) +
                     " rotary " + std::to_string(s.rotary_dim);
  for (const auto& q : s.sequences) {
    text += " " + std::to_string(q.num_queries) + "/" + std::to_string(q.context_len);
  }
  return text;
}

// A cache filled with NaN in which only the sequences' own rows are set, through shuffled tables.
class Problem {
 public:
  Problem(const AttentionShape& shape, DType dtype, uint64_t seed)
      : shape_(shape),
        random_(seed),
        num_tokens_(CountTokens(shape)),
        blocks_per_sequence_(BlocksPerSequence(shape)),
        query_(MakeQuery(dtype)),
        keys_(MakeCache(dtype)),
        values_(MakeCache(dtype)),
        rope_values_(DType::kFloat32, {4096, shape.rotary_dim}) {
    FillCache();
    if (shape.rotary_dim > 0) FillRopeTable(RopeFrequencies(kBase, shape.rotary_dim), 1.0f, rope());
  }

  RopeTable rope() const { return {rope_values_.tensor(), shape_.rotary_dim}; }
  const HostTensor& query() const { return query_; }
  int64_t num_tokens() const { return num_tokens_; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  KvSlot slot() const { return {keys_.tensor(), values_.tensor()}; }

  // Runs the queries [first, first + count) of each sequence counted from its end, or all.
  HostTensor Run(const Stream& stream, DType dtype) const {
    HostTensor out(dtype, {num_tokens_, shape_.num_heads * shape_.head_dim},
                   shape_.num_heads * shape_.head_dim + 6);
    std::vector<int32_t> cu = {0}, lens;
    for (const auto& s : shape_.sequences) {
      cu.push_back(cu.back() + static_cast<int32_t>(s.num_queries));
      lens.push_back(static_cast<int32_t>(s.context_len));
    }
    RunBatch(stream, query_.tensor(), cu, lens, block_tables_, out.tensor());
    return out;
  }

  void RunBatch(const Stream& stream, const Tensor& query, const std::vector<int32_t>& cu,
                const std::vector<int32_t>& lens, const std::vector<int32_t>& tables,
                const Tensor& out, int64_t context_bound = 0) const {
    const HostInts cu_seqlens(cu), context_lens(lens);
    const HostInts block_tables(tables, static_cast<int64_t>(lens.size()));
    const RopeTable table = rope();
    AttentionOptions options;
    options.head_dim = shape_.head_dim;
    options.queries_per_kv_head = shape_.queries_per_kv_head;
    options.query_head_phase = shape_.phase;
    options.scale = scale();
    options.rotate_keys = shape_.rotary_dim > 0 ? &table : nullptr;
    AttentionBatch batch = {cu_seqlens.tensor(), context_lens.tensor(), block_tables.tensor()};
    batch.max_context_len = context_bound;
    for (size_t i = 0; i < lens.size(); ++i) {
      batch.max_seqlen_q = std::max<int64_t>(batch.max_seqlen_q, cu[i + 1] - cu[i]);
      batch.max_context_len = std::max<int64_t>(batch.max_context_len, lens[i]);
    }
    PagedAttention(stream, query, slot(), batch, options, out);
  }

  const std::vector<int32_t>& block_tables() const { return block_tables_; }

  std::vector<double> Reference() const {
    std::vector<double> out;
    int64_t token = 0;
    for (size_t i = 0; i < shape_.sequences.size(); ++i) {
      const SequenceShape& s = shape_.sequences[i];
      std::vector<std::vector<double>> keys, values;
      for (int64_t h = 0; h < shape_.num_kv_heads; ++h) {
        keys.push_back(Rows(keys_, i, h, s.context_len));
        values.push_back(Rows(values_, i, h, s.context_len));
        for (int64_t p = 0; p < s.context_len && shape_.rotary_dim > 0; ++p) {
          RotateReference(kBase, shape_.rotary_dim, p, keys.back().data() + p * shape_.head_dim);
        }
      }
      for (int64_t t = 0; t < s.num_queries; ++t, ++token) {
        for (int64_t h = 0; h < shape_.num_heads; ++h) {
          const int64_t kv = (h + shape_.phase) / shape_.queries_per_kv_head;
          std::vector<double> q;
          q.reserve(shape_.head_dim);
          for (int d = 0; d < shape_.head_dim; ++d) {
            q.push_back(query_.Get(token, h * shape_.head_dim + d));
          }
          const int64_t visible = s.context_len - s.num_queries + t + 1;
          const auto row = s.context_len == 0
                               ? std::vector<double>(shape_.head_dim, 0.0)
                               : AttentionRowReference(q, keys[kv], values[kv], visible, scale());
          out.insert(out.end(), row.begin(), row.end());
        }
      }
    }
    return out;
  }

  void SetKey(size_t sequence, int64_t head, int64_t position, int dim, double value) {
    Put(keys_, sequence, head, position, dim, value);
  }
  void SetValue(size_t sequence, int64_t head, int64_t position, int dim, double value) {
    Put(values_, sequence, head, position, dim, value);
  }

  // Rotates the cached keys in place of the operator, rounding them as a cache would.
  void RotateCache() {
    for (size_t i = 0; i < shape_.sequences.size(); ++i) {
      for (int64_t p = 0; p < shape_.sequences[i].context_len; ++p) {
        for (int64_t h = 0; h < shape_.num_kv_heads; ++h) {
          std::vector<double> head;
          head.reserve(shape_.head_dim);
          for (int d = 0; d < shape_.head_dim; ++d) head.push_back(At(keys_, i, h, p, d));
          RotateReference(kBase, shape_.rotary_dim, p, head.data());
          for (int d = 0; d < shape_.head_dim; ++d) Put(keys_, i, h, p, d, head[d]);
        }
      }
    }
    shape_.rotary_dim = 0;
  }

 private:
  static int64_t CountTokens(const AttentionShape& shape) {
    int64_t tokens = 0;
    for (const auto& s : shape.sequences) tokens += s.num_queries;
    return tokens;
  }
  static int64_t BlocksPerSequence(const AttentionShape& shape) {
    int64_t longest = 1;
    for (const auto& s : shape.sequences) longest = std::max(longest, s.context_len);
    return (longest + shape.block_size - 1) / shape.block_size + 1;
  }
  int64_t num_blocks() const {
    return blocks_per_sequence_ * static_cast<int64_t>(shape_.sequences.size()) + 3;
  }
  HostTensor MakeQuery(DType dtype) {
    const int64_t width = shape_.num_heads * shape_.head_dim;
    return HostTensor(dtype, {num_tokens_, width}, 3 * width + shape_.query_margin)
        .FillNormal(random_, 2.0);
  }
  HostTensor MakeCache(DType dtype) const {
    return HostTensor(dtype,
                      {num_blocks(), shape_.num_kv_heads, shape_.block_size, shape_.head_dim});
  }

  void FillCache() {
    std::vector<int32_t> free;
    for (int64_t b = 0; b < num_blocks(); ++b) free.push_back(static_cast<int32_t>(b));
    for (size_t i = 0; i < shape_.sequences.size(); ++i) {
      for (int64_t b = 0; b < blocks_per_sequence_; ++b) {
        const size_t pick = random_.Below(static_cast<int64_t>(free.size()));
        block_tables_.push_back(free[pick]);
        free.erase(free.begin() + static_cast<int64_t>(pick));
      }
      for (int64_t p = 0; p < shape_.sequences[i].context_len; ++p) {
        for (int64_t h = 0; h < shape_.num_kv_heads; ++h) {
          for (int d = 0; d < shape_.head_dim; ++d) {
            Put(keys_, i, h, p, d, random_.Normal());
            Put(values_, i, h, p, d, random_.Normal());
          }
        }
      }
    }
  }

  std::pair<int64_t, int64_t> Place(size_t sequence, int64_t head, int64_t position,
                                    int dim) const {
    const int64_t block =
        block_tables_[sequence * blocks_per_sequence_ + position / shape_.block_size];
    const int64_t row = head * shape_.block_size + position % shape_.block_size;
    return {block, row * shape_.head_dim + dim};
  }
  double At(const HostTensor& cache, size_t sequence, int64_t head, int64_t position,
            int dim) const {
    const auto [row, column] = Place(sequence, head, position, dim);
    return cache.Get(row, column);
  }
  void Put(HostTensor& cache, size_t sequence, int64_t head, int64_t position, int dim,
           double value) {
    const auto [row, column] = Place(sequence, head, position, dim);
    cache.Set(row, column, value);
  }
  std::vector<double> Rows(const HostTensor& cache, size_t sequence, int64_t head,
                           int64_t count) const {
    std::vector<double> rows;
    for (int64_t p = 0; p < count; ++p) {
      for (int d = 0; d < shape_.head_dim; ++d) rows.push_back(At(cache, sequence, head, p, d));
    }
    return rows;
  }

  AttentionShape shape_;
  Random random_;
  int64_t num_tokens_;
  int64_t blocks_per_sequence_;
  std::vector<int32_t> block_tables_;
  HostTensor query_, keys_, values_, rope_values_;
};

class AttentionTest : public KernelTest {
 protected:
  void Check(const AttentionShape& shape, uint64_t seed = 1) {
    const Problem problem(shape, dtype(), seed);
    ExpectNear(problem.Reference(), problem.Run(stream(), dtype()), dtype(), Describe(shape));
  }
};

// Prefill, a chunk after context, decode and an idle sequence, with borders of blocks on both
// sides.
const std::vector<SequenceShape> kMixed = {{5, 5}, {1, 17}, {3, 32}, {0, 4}, {1, 1}, {19, 50}};

TEST_P(AttentionTest, HeadDims) {
  for (int head_dim : {16, 18, 32, 46, 64, 80, 90, 96, 128, 256, 512}) {
    Check({.head_dim = head_dim, .sequences = kMixed});
  }
}

TEST_P(AttentionTest, BlockSizes) {
  for (int64_t block_size : {1, 2, 3, 5, 8, 16, 31, 32, 64}) {
    Check({.head_dim = 16, .block_size = block_size, .sequences = kMixed});
  }
}

TEST_P(AttentionTest, MapsQueryHeadsWithAnyPhase) {
  for (int group : {1, 2, 3, 12}) {
    for (int phase = 0; phase < group; ++phase) {
      for (int64_t num_heads : {1, 3, 12}) {
        const int64_t num_kv_heads = (num_heads + phase + group - 1) / group;
        Check({.head_dim = 16,
               .num_heads = num_heads,
               .num_kv_heads = num_kv_heads,
               .queries_per_kv_head = group,
               .phase = phase,
               .sequences = {{1, 9}, {7, 20}, {2, 2}}});
      }
    }
  }
}

TEST_P(AttentionTest, ContextAcrossBlockBordersAndSteps) {
  for (int64_t context : {1, 15, 16, 17, 63, 64, 65, 127, 129}) {
    Check({.head_dim = 18, .sequences = {{1, context}, {context, context}}});
  }
}

TEST_P(AttentionTest, LongContextIsSplit) {
  for (int64_t context : {511, 512, 513, 1400}) {
    Check({.head_dim = 16, .sequences = {{1, context}, {4, context}, {1, 3}}});
    Check({.head_dim = 16,
           .num_heads = 12,
           .num_kv_heads = 1,
           .queries_per_kv_head = 12,
           .sequences = {{1, context}, {2, 600}}});
  }
  // A split that begins after the first query's position holds nothing for it.
  Check({.head_dim = 16, .sequences = {{8, 516}}});
}

TEST_P(AttentionTest, ManyTilesOfRows) {
  for (int head_dim : {80, 128, 200}) {
    Check({.head_dim = head_dim, .sequences = {{140, 330}}});
  }
  Check({.head_dim = 32, .sequences = {{200, 230}}});
  Check({.head_dim = 16,
         .num_heads = 12,
         .num_kv_heads = 1,
         .queries_per_kv_head = 12,
         .sequences = {{50, 70}}});
}

// Rings of stages in shared memory turn more than once.
TEST_P(AttentionTest, ManyStepsOfKeys) {
  for (int head_dim : {64, 128}) {
    Check({.head_dim = head_dim, .num_heads = 2, .num_kv_heads = 1, .sequences = {{90, 900}}});
  }
}

TEST_P(AttentionTest, ManyQueryHeadsReadOneKvHead) {
  for (int group : {8, 16, 17, 32, 33, 71, 90}) {
    for (int head_dim : {64, 96, 128, 256, 512}) {
      if (head_dim > 128 && group > 33) continue;
      Check({.head_dim = head_dim,
             .num_heads = group,
             .num_kv_heads = 1,
             .queries_per_kv_head = group,
             .sequences = {{1, 141}, {2, 33}, {1, 64}}});
    }
  }
}

// More sequences than a warp has lanes, of all kinds.
TEST_P(AttentionTest, ManySequences) {
  Random random(8);
  std::vector<SequenceShape> sequences;
  for (int i = 0; i < 75; ++i) {
    const int64_t num_queries = random.Below(4);
    sequences.push_back({num_queries, num_queries + random.Below(20)});
  }
  sequences[50] = {140, 150};
  Check({.head_dim = 16, .sequences = sequences});
}

TEST_P(AttentionTest, QueriesThatAreNotAligned) {
  for (int64_t margin : {1, 2}) {
    Check({.head_dim = 64, .query_margin = margin, .sequences = kMixed});
  }
}

// Graphs of recorded steps fill up with such sequences.
TEST_P(AttentionTest, NoContextGivesZeros) {
  for (int head_dim : {18, 64}) {
    Check({.head_dim = head_dim, .sequences = {{1, 0}, {3, 0}, {5, 9}, {1, 7}, {1, 0}}});
  }
}

TEST_P(AttentionTest, RotatesKeysAsItReads) {
  for (int rotary_dim : {2, 16, 24, 64}) {
    Check({.head_dim = 64, .rotary_dim = rotary_dim, .sequences = kMixed});
  }
  for (int head_dim : {32, 46, 90, 128, 512}) {  // whole heads
    Check({.head_dim = head_dim, .rotary_dim = head_dim, .sequences = kMixed});
  }
}

TEST_P(AttentionTest, RotatedKeysEqualAPreRotatedCache) {
  const AttentionShape shape = {.head_dim = 64, .rotary_dim = 16, .sequences = kMixed};
  Problem problem(shape, dtype(), 7);
  const std::vector<double> rotated_as_read = problem.Run(stream(), dtype()).Values();
  problem.RotateCache();
  const Error error = Measure(rotated_as_read, problem.Run(stream(), dtype()).Values());
  // A bfloat16 cache of rotated keys has been rounded once more than one of plain keys.
  EXPECT_LE(error.nmse, dtype() == DType::kFloat32 ? 1e-10 : 1e-4);
}

// One sequence in chunks gives the rows that it gives whole.
TEST_P(AttentionTest, ChunkedEqualsWhole) {
  constexpr int64_t kTokens = 130;
  const AttentionShape shape = {.head_dim = 32, .sequences = {{kTokens, kTokens}}};
  const Problem problem(shape, dtype(), 3);
  const std::vector<double> whole = problem.Run(stream(), dtype()).Values();
  for (int64_t chunk : {1, 7, 64, 100}) {
    HostTensor out(dtype(), {kTokens, 4 * 32});
    for (int64_t begin = 0; begin < kTokens; begin += chunk) {
      const int64_t count = std::min(chunk, kTokens - begin);
      problem.RunBatch(stream(), problem.query().tensor().Rows(begin, count),
                       {0, static_cast<int32_t>(count)}, {static_cast<int32_t>(begin + count)},
                       problem.block_tables(), out.tensor().Rows(begin, count));
    }
    ExpectNear(whole, out, dtype(), "chunk " + std::to_string(chunk));
  }
}

// Bit for bit: how a sequence is computed depends on nothing but itself.
TEST_P(AttentionTest, IndependentOfThreadsAndBatch) {
  const AttentionShape shape = {.head_dim = 32, .sequences = {{1, 1300}, {40, 90}, {1, 40}}};
  const Problem problem(shape, dtype(), 4);
  const std::vector<double> together = problem.Run(stream(), dtype()).Values();
  const std::optional<Stream> other = MakeStream(3 - num_threads());
  EXPECT_EQ(together, problem.Run(*other, dtype()).Values());
  HostTensor last(dtype(), {1, 4 * 32});
  const auto& tables = problem.block_tables();
  problem.RunBatch(stream(), problem.query().tensor().Rows(41, 1), {0, 1}, {40},
                   {tables.begin() + static_cast<int64_t>(tables.size() / 3 * 2), tables.end()},
                   last.tensor());
  for (int64_t i = 0; i < 4 * 32; ++i) EXPECT_EQ(last.Get(0, i), together[41 * 4 * 32 + i]);
}

// Alone, among others and at whatever place in a tile of rows.
TEST_P(AttentionTest, PrefillIsIndependentOfTheCrowd) {
  const AttentionShape shape = {
      .head_dim = 64, .block_size = 8, .sequences = {{40, 300}, {7, 150}, {130, 260}}};
  const Problem problem(shape, dtype(), 11);
  const std::vector<double> together = problem.Run(stream(), dtype()).Values();
  const auto& tables = problem.block_tables();
  const size_t num_blocks = tables.size() / shape.sequences.size();
  constexpr int64_t kWidth = int64_t{4} * 64;
  int64_t first = 0;
  for (size_t i = 0; i < shape.sequences.size(); ++i) {
    const auto [num_queries, context_len] = shape.sequences[i];
    const auto begin = tables.begin() + static_cast<int64_t>(i * num_blocks);
    const std::vector<int32_t> table(begin, begin + static_cast<int64_t>(num_blocks));
    for (const int64_t count : {num_queries, num_queries - 3}) {  // the last of its queries
      const int64_t row = first + num_queries - count;
      HostTensor alone(dtype(), {count, kWidth});
      problem.RunBatch(stream(), problem.query().tensor().Rows(row, count),
                       {0, static_cast<int32_t>(count)}, {static_cast<int32_t>(context_len)}, table,
                       alone.tensor());
      const std::vector<double> expected(together.begin() + row * kWidth,
                                         together.begin() + (row + count) * kWidth);
      EXPECT_EQ(alone.Values(), expected) << i << " " << count;
    }
    first += num_queries;
  }
}

// Among many sequences one is cut into fewer parts than alone, which must not show in any bit.
TEST_P(AttentionTest, DecodeIsIndependentOfTheCrowd) {
  if (!GetParam().warpgroups) return;  // prefill's
  const auto check = [&](int head_dim, int group, const std::vector<int32_t>& contexts) {
    const AttentionShape shape = {.head_dim = head_dim,
                                  .num_heads = group,
                                  .num_kv_heads = 1,
                                  .queries_per_kv_head = group,
                                  .sequences = {{1, contexts.back()}}};
    const Problem problem(shape, dtype(), 9);
    const auto run = [&](int32_t context, size_t num_sequences, int64_t context_bound) {
      std::vector<int32_t> cu(num_sequences + 1, 1), lens(num_sequences, 0);
      cu[0] = 0;
      lens[0] = context;
      std::vector<int32_t> tables = problem.block_tables();
      tables.resize(tables.size() * num_sequences);
      HostTensor out(dtype(), {1, int64_t{group} * head_dim});
      problem.RunBatch(stream(), problem.query().tensor(), cu, lens, tables, out.tensor(),
                       context_bound);
      return out.Values();
    };
    for (int32_t context : contexts) {
      const std::vector<double> alone = run(context, 1, 0);
      EXPECT_EQ(alone, run(context, 400, 0)) << context;
      EXPECT_EQ(alone, run(context, 150, 50000)) << context;
    }
    ExpectNear(problem.Reference(), problem.Run(stream(), dtype()), dtype(), Describe(shape));
  };
  for (int group : {2, 17, 40}) check(64, group, {1, 128, 129, 1024, 1025, 2300});
  check(16, 2, {32768, 33000});
}

// A NaN must reach the logits, where it ends the request, and only its own row.
TEST_P(AttentionTest, NanInAQueryShows) {
  const AttentionShape shape = {.head_dim = 32, .sequences = {{1, 70}, {30, 70}}};
  const Problem problem(shape, dtype(), 5);
  HostTensor query = HostTensor(dtype(), {31, 4 * 32}).FillZero();
  query.Set(0, 3, std::nan(""));
  query.Set(9, 3, std::nan(""));
  HostTensor out(dtype(), {31, 4 * 32});
  problem.RunBatch(stream(), query.tensor(), {0, 1, 31}, {70, 70}, problem.block_tables(),
                   out.tensor());
  for (int64_t t = 0; t < 31; ++t) {
    for (int64_t d = 0; d < 4 * 32; ++d) {
      EXPECT_EQ(std::isnan(out.Get(t, d)), (t == 0 || t == 9) && d < 32) << t << " " << d;
    }
  }
}

// It also shows in whatever sees a key or a value that is one, and in nothing else.
TEST_P(AttentionTest, NanInTheCacheShows) {
  constexpr int64_t kQueries = 80, kContext = 150, kPosition = 101;
  constexpr int kDim = 3;
  for (int head_dim : {32, 46}) {
    for (bool in_key : {true, false}) {
      // On CPUs a weight of zero does not hide a value.
      if (!in_key && !on_gpu()) continue;
      const AttentionShape shape = {.head_dim = head_dim, .sequences = {{kQueries, kContext}}};
      Problem problem(shape, dtype(), 6);
      in_key ? problem.SetKey(0, 1, kPosition, kDim, std::nan(""))
             : problem.SetValue(0, 1, kPosition, kDim, std::nan(""));
      const HostTensor out = problem.Run(stream(), dtype());
      for (int64_t t = 0; t < kQueries; ++t) {
        const bool sees = kContext - kQueries + t >= kPosition;
        for (int64_t d = 0; d < 4 * head_dim; ++d) {
          const bool expected = sees && d >= 2 * head_dim && (in_key || d % head_dim == kDim);
          EXPECT_EQ(std::isnan(out.Get(t, d)), expected) << t << " " << d;
        }
      }
    }
  }
}

TEST_P(AttentionTest, EmptyBatch) {
  Check({.sequences = {}});
  Check({.sequences = {{0, 0}, {0, 3}}});
}

INSTANTIATE_TEST_SUITE_P(Kernels, AttentionTest,
                         ::testing::ValuesIn(AllKernelCasesAndWithoutWarpgroups()), KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
