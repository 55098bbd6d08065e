#include "engine/engine_stats.h"

namespace polystrate {
namespace {

constexpr double kFirstToken[] = {0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                  0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                  20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
constexpr double kTokenGap[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5,
                                5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
constexpr double kRequest[] = {0.005, 0.01, 0.025, 0.05,  0.1,   0.2,   0.3,   0.5,    0.8,
                               1.0,   1.5,  2.0,   2.5,   5.0,   10.0,  15.0,  20.0,   30.0,
                               40.0,  50.0, 60.0,  120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr double kLength[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                              2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};

double Seconds(int64_t from, int64_t to) { return static_cast<double>(to - from) * 1e-9; }

}  // namespace

absl::Span<const double> FirstTokenBounds() { return kFirstToken; }
absl::Span<const double> TokenGapBounds() { return kTokenGap; }
absl::Span<const double> RequestBounds() { return kRequest; }
absl::Span<const double> LengthBounds() { return kLength; }

void EngineStats::CountScheduled(int64_t now, RequestTimes* times) {
  if (times->first_scheduled != 0) return;  // another output, or after a preemption
  times->first_scheduled = now;
  queue_time.Observe(Seconds(times->arrival, now));
}

void EngineStats::CountToken(int64_t now, int32_t output, int64_t num_prompt_tokens,
                             RequestTimes* times) {
  ++generation_tokens;
  if (times->first_token == 0) {
    times->first_token = now;
    time_to_first_token.Observe(Seconds(times->arrival, now));
    prompt_tokens += num_prompt_tokens;
  }
  int64_t& last = times->last_token_of[output];
  if (last != 0) {
    inter_token_latency.Observe(Seconds(last, now));
    times->sum_of_gaps += now - last;
    ++times->num_gaps;
  }
  times->last_token = last = now;
}

void EngineStats::CountEnd(int64_t now, RequestEnd end, const RequestUsage& usage,
                           const RequestTimes& times) {
  ++requests[static_cast<size_t>(end)];
  if (end != RequestEnd::kStop && end != RequestEnd::kLength) return;
  const bool generated = times.first_token != 0;
  if (!generated) prompt_tokens += usage.prompt_tokens;  // it was only scored
  // A prompt of one token that is only scored needs no step.
  const int64_t scheduled = times.first_scheduled != 0 ? times.first_scheduled : now;
  e2e_time.Observe(Seconds(times.arrival, now));
  prefill_time.Observe(Seconds(scheduled, generated ? times.first_token : now));
  inference_time.Observe(Seconds(scheduled, generated ? times.last_token : now));
  if (generated) decode_time.Observe(Seconds(times.first_token, times.last_token));
  if (times.num_gaps > 0) {
    time_per_output_token.Observe(Seconds(0, times.sum_of_gaps) /
                                  static_cast<double>(times.num_gaps));
  }
  prompt_length.Observe(static_cast<double>(usage.prompt_tokens));
  output_length.Observe(static_cast<double>(usage.completion_tokens));
}

}  // namespace polystrate
