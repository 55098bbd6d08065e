// EngineStats: what an engine has done since it began, in the terms that serving dashboards ask
// for. The engine's thread counts; other threads get copies (Engine::stats()).
#pragma once

#include <array>
#include <cstdint>

#include "engine/histogram.h"
#include "engine/request.h"
#include "engine/request_times.h"

namespace polystrate {

// How an accepted request ended.
enum class RequestEnd : uint8_t { kStop, kLength, kAbort, kError };
inline constexpr size_t kNumRequestEnds = 4;

// Bounds of the histograms below. They hold every bound that vLLM's histograms of the same names
// have, so that dashboards which name one find it, and finer ones where a small model works.
absl::Span<const double> FirstTokenBounds();  // seconds
absl::Span<const double> TokenGapBounds();    // seconds
absl::Span<const double> RequestBounds();     // seconds
absl::Span<const double> LengthBounds();      // tokens: 1, 2, 5, 10, ..., 1,000,000

// Times are seconds. Arrival is Engine::Submit; a token comes when it is handed to the sink. An
// output that is one of several counts as part of its request, but for gaps.
struct EngineStats {
  // Of every request that was scheduled: from arrival until then.
  Histogram queue_time{RequestBounds()};
  // Of every request that got a token: from arrival to its first.
  Histogram time_to_first_token{FirstTokenBounds()};
  // Every gap between one token of an output and the next of the same.
  Histogram inter_token_latency{TokenGapBounds()};

  // Of every request that ended by itself (kStop, kLength):
  Histogram e2e_time{RequestBounds()};        // from arrival to the end
  Histogram prefill_time{RequestBounds()};    // from first scheduled to the first token or the end
  Histogram decode_time{RequestBounds()};     // from the first token to the last
  Histogram inference_time{RequestBounds()};  // from first scheduled to the last token or the end
  Histogram time_per_output_token{TokenGapBounds()};  // mean gap, if it has gaps
  Histogram prompt_length{LengthBounds()};
  Histogram output_length{LengthBounds()};  // of all outputs together

  int64_t prompt_tokens = 0;      // of requests whose prompt is computed
  int64_t generation_tokens = 0;  // handed to sinks
  int64_t steps = 0;              // that were planned
  int64_t preemptions = 0;
  int64_t prefix_cache_queries = 0;                 // prompt tokens looked up in the prefix cache,
  int64_t prefix_cache_hits = 0;                    // and found there
  int64_t evictions = 0;                            // cached blocks that were given to others
  std::array<int64_t, kNumRequestEnds> requests{};  // accepted ones that have ended, by how

  // What happens to a request, `now` being Timeline::NowNs(). They keep its times, too.
  // Every time that one of its sequences is admitted; only the first counts.
  void CountScheduled(int64_t now, RequestTimes* times);
  void CountToken(int64_t now, int32_t output, int64_t num_prompt_tokens, RequestTimes* times);
  void CountEnd(int64_t now, RequestEnd end, const RequestUsage& usage, const RequestTimes& times);
};

}  // namespace polystrate
