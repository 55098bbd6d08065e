#include "launcher/sharing_speed.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "launcher/cache_sweep.h"
#include "launcher/decode_session.h"
#include "launcher/process_memory.h"

namespace polystrate {
namespace {

// Turns that each model takes at one batch; a turn is its share of the steps.
constexpr int kTurns = 4;
constexpr int kWarmSteps = 2;

using Sessions = std::vector<std::unique_ptr<DecodeSession>>;

// Of the host. A GPU says itself what it does not have.
absl::Status CheckMemory(const std::vector<PaperVariant>& variants, const SharingOptions& options) {
  int64_t needed = 2 * options.sweep_bytes;
  for (const PaperVariant& variant : variants) {
    needed += variant.config.NumParameters() * SizeOf(options.dtype) + options.kv_memory;
  }
  ASSIGN_OR_RETURN(const int64_t available, AvailableBytes());
  if (needed <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("all models are resident at once and take ", needed, " bytes, of which ",
                   available, " are available; name fewer --variants or less --kv_memory"));
}

absl::StatusOr<Sessions> StartSessions(const std::vector<PaperVariant>& variants,
                                       const SharingOptions& options, Stream* stream) {
  Sessions sessions;
  for (const PaperVariant& variant : variants) {
    DecodeOptions decode;
    decode.dtype = options.dtype;
    decode.kv_memory = options.kv_memory;
    decode.sequence_len = options.context + options.steps + 1;
    ASSIGN_OR_RETURN(auto session, DecodeSession::Create(variant.config, decode, stream));
    if (session->max_sequences() < options.batch) {
      return absl::InvalidArgumentError(
          absl::StrCat("--batch is ", options.batch, ", but --kv_memory ", options.kv_memory,
                       " holds ", session->max_sequences(), " sequences of ", decode.sequence_len,
                       " tokens of ", variant.name));
    }
    sessions.push_back(std::move(session));
  }
  return sessions;
}

DecodeSpeed Describe(const DecodeSession& session, const SharingOptions& options,
                     std::vector<double> seconds) {
  const auto n = static_cast<double>(session.num_sequences());
  const double context =
      static_cast<double>(options.context) + static_cast<double>(options.steps + 1) / 2;
  DecodeSpeed speed;
  speed.sequences = session.num_sequences();
  speed.step = Summarize(std::move(seconds));
  speed.bytes = static_cast<double>(session.weight_bytes()) +
                n * context * static_cast<double>(session.kv_read_bytes());
  speed.operations = n * (static_cast<double>(session.matrix_operations()) +
                          context * static_cast<double>(session.attention_operations()));
  return speed;
}

// Seconds of `num_steps` of the options' steps of each session, the sessions taking turns. batch[i]
// is session i's.
std::vector<std::vector<double>> RunInTurns(const Sessions& sessions,
                                            const std::vector<int64_t>& batch, int64_t num_steps,
                                            const SharingOptions& options,
                                            const std::function<void(int)>& turn_done) {
  std::vector<std::vector<double>> seconds(sessions.size());
  for (int turn = 0; turn < kTurns; ++turn) {
    const int64_t steps = num_steps * (turn + 1) / kTurns - num_steps * turn / kTurns;
    for (size_t i = 0; i < sessions.size(); ++i) {
      sessions[i]->Begin(batch[i], options.context + options.steps * turn / kTurns);
      // Bring its weights back into the caches; on a GPU the second step of a shape is recorded.
      for (int warm = 0; warm < kWarmSteps; ++warm) sessions[i]->Step(/*advance=*/false);
      for (int64_t step = 0; step < steps; ++step) {
        seconds[i].push_back(sessions[i]->Step(/*advance=*/true));
      }
    }
    turn_done(turn);
  }
  return seconds;
}

absl::StatusOr<int64_t> ScratchBytesOf(DecodeSession& session, int64_t batch, int64_t context) {
  session.Begin(batch, context);
  ASSIGN_OR_RETURN(const int64_t before, ResidentBytes());
  session.Step(/*advance=*/false);
  ASSIGN_OR_RETURN(const int64_t after, ResidentBytes());
  return after - before;
}

AttentionTime TimeAttention(const KvSharing& sharing, const std::vector<double>& layers) {
  std::vector<double> owners, reusers;
  for (int layer = 0; layer < sharing.num_layers(); ++layer) {
    (sharing.owns(layer) ? owners : reusers).push_back(layers[layer]);
  }
  return {Summarize(owners).median, reusers.empty() ? 0.0 : Summarize(reusers).median};
}

}  // namespace

absl::StatusOr<SharingReport> MeasureSharing(const std::vector<PaperVariant>& variants,
                                             const SharingOptions& options, Stream* stream,
                                             const std::function<void(double)>& progress) {
  const bool on_gpu = stream->device().type == DeviceType::kCuda;
  if (!on_gpu) {
    RETURN_IF_ERROR(CheckMemory(variants, options));
  }
  SharingReport report;
  report.options = options;
  // The best of before and after: a neighbour that slowed one of them must not flatter the models.
  MeasureLimits(*stream, options.dtype, options.sweep_bytes, &report.limits);
  ASSIGN_OR_RETURN(const Sessions sessions, StartSessions(variants, options, stream));

  const std::vector<int64_t> equal(sessions.size(), options.batch);
  std::vector<int64_t> largest;
  for (const auto& session : sessions) largest.push_back(session->max_sequences());
  // Most of the time goes to the large batches.
  auto at_equal = RunInTurns(sessions, equal, options.steps, options,
                             [&](int turn) { progress(0.2 * (turn + 1) / kTurns); });
  std::vector<SharingRow> rows(sessions.size());
  const CacheSweep sweep(*stream, options.sweep_bytes);
  for (size_t i = 0; i < sessions.size(); ++i) {
    DecodeSession& session = *sessions[i];
    SharingRow& row = rows[i];
    row.variant = variants[i];
    row.kv_resident_bytes = session.kv_resident_bytes();
    row.kv_read_bytes = session.kv_read_bytes();
    row.kv_projection_operations = session.kv_projection_operations();
    row.equal_batch = Describe(session, options, std::move(at_equal[i]));
    const KvSharing& sharing = variants[i].config.sharing;
    const int repeats = options.attention_repeats;
    row.cold_attention =
        TimeAttention(sharing, session.AttentionSeconds(repeats, [&] { sweep.Read(); }));
    row.ordered_attention = TimeAttention(sharing, session.AttentionSeconds(repeats, nullptr));
  }
  for (size_t i = 0; !on_gpu && i < sessions.size(); ++i) {
    ASSIGN_OR_RETURN(rows[i].scratch_bytes,
                     ScratchBytesOf(*sessions[i], largest[i], options.context));
  }
  const int64_t largest_steps = std::min(options.largest_batch_steps, options.steps);
  auto at_largest = RunInTurns(sessions, largest, largest_steps, options,
                               [&](int turn) { progress(0.3 + 0.6 * (turn + 1) / kTurns); });
  for (size_t i = 0; i < sessions.size(); ++i) {
    rows[i].largest_batch = Describe(*sessions[i], options, std::move(at_largest[i]));
    rows[i].kv_written_bytes = sessions[i]->CountBytesWrittenPerToken();
  }
  MeasureLimits(*stream, options.dtype, options.sweep_bytes, &report.limits);
  report.rows = std::move(rows);
  return report;
}

}  // namespace polystrate
