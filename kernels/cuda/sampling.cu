#include <algorithm>
#include <limits>

#include "kernels/cuda/drawing.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/scoring.cuh"
#include "kernels/penalties.h"

namespace polystrate::cuda {
namespace {

// More are done in turns, of which each costs two launches and an upload: 4,096 rows of 50,304
// tokens take a quarter of a millisecond. Where logits are adjusted turns are shorter, for they
// share the room for those.
constexpr int64_t kRowsAtOnce = 4096;
constexpr int64_t kAdjustedRowsAtOnce = 64;
// What goes up in one piece, both lists or each piece of one. An upload lasts until 32 MiB more
// have gone up, so that beside a long list nothing is used from where it was uploaded to.
constexpr int64_t kMaxUploadBytes = int64_t{1} << 20;

// The lists on the device. A row's [begin, end) are places in the host's lists, of which these
// begin at history_begin and biases_begin.
struct DeviceLists {
  const TokenCount* history;
  const TokenBias* biases;
  int32_t history_begin;
  int32_t biases_begin;
};

// One warp, for the tokens [begin, begin + count), which lie in shared memory: in the list's order,
// which matters to a token that has several biases.
__device__ void ApplyBiases(const SampleRow& row, const DeviceLists& lists, int32_t begin,
                            int32_t count, float* chunk) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const TokenBias* biases = lists.biases - lists.biases_begin;
  for (int32_t first = row.biases_begin; first < row.biases_end; first += kWarp) {
    const int32_t i = first + lane;
    const int32_t token = i < row.biases_end ? biases[i].token_id - begin : -1;
    const bool inside = token >= 0 && token < count;
    for (unsigned left = __ballot_sync(kAllLanes, inside); left != 0; left &= left - 1) {
      if (inside && (left & (0u - left)) == 1u << lane) {
        chunk[token] = Biased(chunk[token], biases[i].bias);
      }
      __syncwarp();
    }
  }
}

// The whole block; a token is in a history once.
__device__ void ApplyHistory(const SampleRow& row, const DeviceLists& lists, int32_t begin,
                             int32_t count, float* chunk) {
  const TokenCount* history = lists.history - lists.history_begin;
  for (int32_t i = row.history_begin + static_cast<int32_t>(threadIdx.x); i < row.history_end;
       i += kChunkThreads) {
    const int32_t token = history[i].token_id - begin;
    if (token >= 0 && token < count) {
      chunk[token] = Penalised(chunk[token], history[i].count, row);
    }
  }
}

// values become those that a token is drawn from, which also go to `out`.
__device__ void AdjustChunk(const SampleRow& row, const DeviceLists& lists, int32_t begin,
                            int32_t count, ChunkValues& values, float* out) {
  __shared__ float4 fours[kChunkTokens / 4];
  auto* chunk = reinterpret_cast<float*>(fours);
#pragma unroll
  for (int q = 0; q < kTokensPerThread / 4; ++q) {
    fours[ChunkOffset(q) / 4] =
        make_float4(values[4 * q], values[4 * q + 1], values[4 * q + 2], values[4 * q + 3]);
  }
  __syncthreads();
  if (threadIdx.x < kWarp) ApplyBiases(row, lists, begin, count, chunk);
  __syncthreads();
  ApplyHistory(row, lists, begin, count, chunk);
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kTokensPerThread / 4; ++q) {
    const float4 four = fours[ChunkOffset(q) / 4];
    values[4 * q] = four.x;
    values[4 * q + 1] = four.y;
    values[4 * q + 2] = four.z;
    values[4 * q + 3] = four.w;
    // Rows of `out` have room for whole fours.
    if (ChunkOffset(q) < count) *reinterpret_cast<float4*>(out + ChunkOffset(q)) = four;
  }
}

struct SampleBatch {
  const float* logits;
  int64_t row_stride;
  int32_t vocab_size;
  int num_chunks;
  const SampleRow* rows;
  DeviceLists lists;
  ChunkSummary* summaries;  // [rows, num_chunks]
  float* adjusted;  // [rows, adjusted_stride]: logits after biases and penalties; of a long turn,
                    // which has none, not so many rows
  int64_t adjusted_stride;
  SampleResult* results;
  int32_t* drawn;  // [rows], may be null
};

// Grid: (chunks of the row, rows); block: kChunkThreads; 16 KiB shared for rows with lists. Reads
// every logit once, 4 bytes, and is bound by that; rows with lists are written as well, and each of
// their blocks reads all of the row's lists, 8 bytes an entry.
__global__ __launch_bounds__(kChunkThreads) void SummarizeForSample(const SampleBatch batch) {
  __shared__ Place places[kMaxWarps];
  __shared__ float sums[kMaxWarps];
  const int64_t r = blockIdx.y;
  const auto begin = static_cast<int32_t>(blockIdx.x) * kChunkTokens;
  const int32_t count = min(kChunkTokens, batch.vocab_size - begin);
  ChunkValues values;
  LoadChunk(batch.logits + r * batch.row_stride + begin, count, values);
  const Place best = BestOfChunk(values, begin, places);
  const float sum = SumExpOfChunk(values, LogitOf(best), 1.0f, sums);
  Place drawn_best = best;
  const SampleRow& options = batch.rows[r];
  if (options.AdjustsLogits()) {
    AdjustChunk(options, batch.lists, begin, count, values,
                batch.adjusted + r * batch.adjusted_stride + begin);
    drawn_best = BestOfChunk(values, begin, places);
  }
  float drawn_sum = 0.0f;
  if (NeedsDrawnSum(options, batch.vocab_size)) {
    drawn_sum = SumExpOfChunk(values, LogitOf(drawn_best), 1.0f / options.temperature, sums);
  }
  if (threadIdx.x == 0) {
    batch.summaries[r * batch.num_chunks + blockIdx.x] = {best, drawn_best, sum, drawn_sum, 0};
  }
}

constexpr int kMaxDrawThreads = 768;  // 80 registers each

// The results lie in the host's memory; what the next step reads lies here.
__device__ void TellToken(const SampleBatch& batch, int64_t r, int32_t token_id) {
  if (threadIdx.x != 0) return;
  batch.results[r].token_id = token_id;
  if (batch.drawn != nullptr) batch.drawn[r] = token_id;
}

__device__ void SampleNothing(const SampleBatch& batch, int64_t r, float logprob) {
  TellNothing(logprob, batch.results + r);
  TellToken(batch, r, -1);
}

// Grid: rows; block: DrawThreads; 40 KiB shared. A greedy row reads its chunks' summaries alone. A
// draw from all tokens reads the row once and a warp's share of it again; one with top_k or top_p
// reads it for the histogram and for the tokens to be sorted (4 bytes a token each time, from the
// second-level cache), seldom more often. Rank: another reading, but for the best token. Bound by
// what one multiprocessor loads and, of the tokens that are likely enough to matter, exponentiates
// and adds to shared memory.
__global__ __launch_bounds__(kMaxDrawThreads) void ChooseTokens(const SampleBatch batch) {
  __shared__ DrawShared draw_shared;
  __shared__ ScoreShared score_shared;
  WaitForKernelBefore();
  const int64_t r = blockIdx.x;
  const SampleRow& options = batch.rows[r];
  const RowLogits row = {batch.logits + r * batch.row_stride, batch.vocab_size,
                         batch.summaries + r * batch.num_chunks, batch.num_chunks};
  const RowSummary summary = SummarizeRow(row.chunks, row.num_chunks);
  __syncthreads();  // before candidates change the summaries
  if (!summary.HasDistribution()) return SampleNothing(batch, r, NAN);
  const float max = LogitOf(summary.drawn_best);
  if (!isfinite(max)) return SampleNothing(batch, r, 0.0f);  // all that is left is banned
  int32_t token_id = IdOf(summary.drawn_best);
  if (!options.IsGreedy()) {
    const float* logits =
        options.AdjustsLogits() ? batch.adjusted + r * batch.adjusted_stride : row.logits;
    Weights weights(options, max, batch.vocab_size);
    if (NeedsDrawnSum(options, batch.vocab_size)) weights.AddUp(row.chunks, row.num_chunks);
    RowDraw draw(logits, batch.vocab_size, weights, &draw_shared);
    token_id = draw.Draw(options);
  }
  const float logit = __ldg(row.logits + token_id);
  int32_t rank = 0;
  if (options.num_candidates != kLogProbOnly) {
    const Place place = PlaceOf(logit, token_id);
    rank = place == summary.best ? 1 : 1 + CountBefore(row, place, &score_shared);
  }
  Tell(row, summary, logit, rank, options.num_candidates, &score_shared, batch.results + r);
  TellToken(batch, r, token_id);
}

// Some sixteen tokens a thread and whole warps. Where no row is read again, as few as can be, so
// that a multiprocessor has several rows at a time: a greedy row is all latency.
unsigned DrawThreads(absl::Span<const SampleRow> rows, int64_t vocab_size) {
  constexpr int64_t kLeast = 64;
  const bool read_again = std::any_of(rows.begin(), rows.end(), [](const SampleRow& row) {
    return !row.IsGreedy() || row.num_candidates != kLogProbOnly;
  });
  if (!read_again) return kLeast;
  return static_cast<unsigned>(std::clamp<int64_t>(vocab_size / 512 * 32, kLeast, kMaxDrawThreads));
}

// The smallest range that holds the parts, [begin, end), of all rows.
struct ListRange {
  int32_t begin = std::numeric_limits<int32_t>::max();
  int32_t end = 0;

  void Add(int32_t part_begin, int32_t part_end) {
    if (part_begin == part_end) return;
    begin = std::min(begin, part_begin);
    end = std::max(end, part_end);
  }
  int64_t size() const { return std::max<int64_t>(0, int64_t{end} - begin); }
};

// A range of a list on the device. Where `room` is not null it is put together there, which is used
// up to where it then points.
template <typename T>
const T* UploadList(CudaContext& context, absl::Span<const T> list, const ListRange& range,
                    char** room) {
  if (range.size() == 0) return nullptr;
  const T* from = list.data() + range.begin;
  const int64_t num_bytes = range.size() * static_cast<int64_t>(sizeof(T));
  if (room == nullptr) return static_cast<const T*>(context.Upload(from, num_bytes));
  char* to = *room;
  *room += num_bytes;
  for (int64_t done = 0; done < num_bytes; done += kMaxUploadBytes) {
    const int64_t piece = std::min(kMaxUploadBytes, num_bytes - done);
    const void* uploaded = context.Upload(reinterpret_cast<const char*>(from) + done, piece);
    CHECK_CUDA(
        cudaMemcpyAsync(to + done, uploaded, piece, cudaMemcpyDeviceToDevice, context.stream()));
  }
  return reinterpret_cast<const T*>(to);
}

// Scratch: adjusted logits, whether there are lists or not, so that a run without any takes what
// later ones need; long lists; summaries.
void SampleRows(CudaContext& context, const Tensor& logits, int64_t vocab_size,
                absl::Span<const SampleRow> rows, SampleResult* results, const SampleLists& lists,
                int32_t* drawn) {
  const int64_t num_rows = logits.dim(0), num_chunks = NumChunks(vocab_size);
  ListRange history, biases;
  for (const SampleRow& row : rows) {
    history.Add(row.history_begin, row.history_end);
    biases.Add(row.biases_begin, row.biases_end);
  }
  SampleBatch batch = {};
  batch.adjusted_stride = (vocab_size + 63) / 64 * 64;
  const int64_t adjusted_bytes =
      std::min(num_rows, kAdjustedRowsAtOnce) * batch.adjusted_stride * int64_t{sizeof(float)};
  const int64_t summary_bytes = num_rows * num_chunks * int64_t{sizeof(ChunkSummary)};
  static_assert(sizeof(TokenCount) == sizeof(TokenBias));
  const int64_t list_bytes = (history.size() + biases.size()) * int64_t{sizeof(TokenCount)};
  const bool are_long = list_bytes > kMaxUploadBytes;
  auto* scratch = static_cast<char*>(
      context.Scratch(adjusted_bytes + summary_bytes + (are_long ? list_bytes : 0)));
  batch.adjusted = reinterpret_cast<float*>(scratch);
  batch.summaries = reinterpret_cast<ChunkSummary*>(scratch + adjusted_bytes);
  char* next = scratch + adjusted_bytes + summary_bytes;
  char** room = are_long ? &next : nullptr;
  batch.logits = logits.data<float>();
  batch.row_stride = logits.row_stride();
  batch.vocab_size = static_cast<int32_t>(vocab_size);
  batch.num_chunks = static_cast<int>(num_chunks);
  batch.lists.history = UploadList(context, lists.history, history, room);
  batch.lists.history_begin = history.begin;
  batch.lists.biases = UploadList(context, lists.biases, biases, room);
  batch.lists.biases_begin = biases.begin;
  batch.rows = context.Upload(rows);
  batch.results = results;
  batch.drawn = drawn;
  const auto grid_rows = static_cast<unsigned>(num_rows);
  Launch(context, SummarizeForSample, dim3(static_cast<unsigned>(num_chunks), grid_rows),
         kChunkThreads, 0, batch);
  LaunchEarly(context, ChooseTokens, grid_rows, DrawThreads(rows, vocab_size), 0, batch);
}

// How many of the rows the next turn takes.
int64_t RowsOfTurn(absl::Span<const SampleRow> rows) {
  const auto size = static_cast<int64_t>(rows.size());
  const auto first = std::find_if(rows.begin(), rows.end(),
                                  [](const SampleRow& row) { return row.AdjustsLogits(); });
  const int64_t plain = std::min<int64_t>(first - rows.begin(), kRowsAtOnce);
  return std::max(plain, std::min(size, kAdjustedRowsAtOnce));
}

}  // namespace

// Expected on an H200, in microseconds (reckoned, not measured: 3 to 4 TB/s for the first kernel
// and 3 us at least; 2 us for the second without a draw; for one with top_p two readings of the row
// at some 80 GB/s, and 5 us for sort and searches):
//                    bytes of logits   greedy   top_p
//   [1 x 50,304]     0.2 MB            5        15
//   [64 x 50,304]    12.9 MB           7        17
//   [64 x 128,256]   32.8 MB           12       30
//   [1,334 x 50,304] 268 MB            75       250
// top_k without min_p exponentiates every token in the second kernel: twice the time of top_p.
void Sample(CudaContext& context, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists, const Tensor& drawn) {
  for (int64_t begin = 0; begin < logits.dim(0);) {
    const int64_t num_rows = RowsOfTurn(rows.subspan(begin));
    SampleRows(context, logits.Rows(begin, num_rows), vocab_size, rows.subspan(begin, num_rows),
               results.data() + begin, lists,
               drawn.empty() ? nullptr : drawn.data<int32_t>() + begin);
    begin += num_rows;
  }
}

}  // namespace polystrate::cuda
