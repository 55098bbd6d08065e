#include "launcher/offline.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/worker.h"
#include "kernels/core/status.h"
#include "launcher/progress.h"
#include "launcher/rank_session.h"

namespace polystrate {
namespace {

// What is counted over all requests.
struct Tally {
  absl::Time first_token = absl::InfiniteFuture();
  size_t num_requests = 0;
  size_t num_finished = 0;
  Progress progress{"requests finished", /*shown=*/true};

  void CountFinished() {
    if (num_requests == 1) return;  // its text is progress enough
    progress.Update(static_cast<double>(++num_finished) / static_cast<double>(num_requests));
  }
};

// Collects one request's output. Called on the engine's thread, read after Run() has returned.
class CollectingSink : public TokenSink {
 public:
  CollectingSink(size_t index, const OfflineJob& job, Tally* tally, OfflineOutput* output)
      : index_(index), job_(job), tally_(tally), output_(output) {}

  void OnPrompt(const std::vector<PromptScore>& scores) override {
    output_->prompt_scores = scores;
  }
  void OnToken(const TokenInfo& token) override {
    tally_->first_token = std::min(tally_->first_token, absl::Now());
    OfflineOutput& output = Output(token.output_index);
    output.token_ids.push_back(token.token_id);
    output.logprobs.push_back(token.logprob);
    if (token.rank > 0) {
      output.ranks.push_back(token.rank);
      output.candidates.emplace_back(token.candidates.begin(), token.candidates.end());
    }
    Emit(token);
  }
  void OnFinished(const Finished& finished) override {
    Output(finished.output_index).reason = finished.reason;
    if (!finished.text.empty()) {
      Emit({.output_index = finished.output_index, .token_id = -1, .text = finished.text});
    }
    if (finished.usage.has_value()) tally_->CountFinished();
  }
  void OnError(const absl::Status& status) override {
    output_->status = status;
    tally_->CountFinished();
  }

 private:
  OfflineOutput& Output(int32_t index) {
    if (index == 0) return *output_;
    const auto others = static_cast<size_t>(index);
    if (output_->others.size() < others) output_->others.resize(others);
    return output_->others[index - 1];
  }
  void Emit(const TokenInfo& token) {
    Output(token.output_index).text += token.text;
    if (job_.on_token && token.output_index == 0) job_.on_token(index_, token);
  }

  const size_t index_;
  const OfflineJob& job_;
  Tally* const tally_;
  OfflineOutput* const output_;
};

// What rank 0 has beside its stage.
struct Driver {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Engine> engine;
  std::vector<GenerationRequest> requests;
  std::vector<OfflineOutput> outputs;
  std::vector<std::unique_ptr<CollectingSink>> sinks;
  Tally tally;

  absl::Status Prepare(const EngineFlags& flags, const EngineSetup& setup, const OfflineJob& job) {
    RETURN_IF_ERROR(CheckTimelinePath(flags));
    ASSIGN_OR_RETURN(tokenizer, LoadTokenizer(flags.model.model));
    RETURN_IF_ERROR(CheckKvMemory(setup));
    engine = std::make_unique<Engine>(setup.engine, tokenizer.get());
    ASSIGN_OR_RETURN(requests, job.requests(*engine));
    outputs.resize(requests.size());
    tally.num_requests = requests.size();
    for (size_t i = 0; i < requests.size(); ++i) {
      sinks.push_back(std::make_unique<CollectingSink>(i, job, &tally, &outputs[i]));
      const absl::Status status = engine->Submit(requests[i], sinks[i].get());
      if (status.ok()) continue;
      return requests.size() == 1
                 ? status
                 : absl::Status(status.code(),
                                absl::StrCat("request ", i + 1, ": ", status.message()));
    }
    engine->BeginDrain(absl::InfiniteDuration());  // these and no more
    return absl::OkStatus();
  }
};

OfflineStats MakeStats(const Driver& driver, absl::Time begin) {
  OfflineStats stats;
  stats.wall = absl::Now() - begin;
  stats.first_token = driver.tally.first_token - begin;
  for (const auto& request : driver.requests) stats.prompt_tokens += request.prompt.size();
  for (const auto& output : driver.outputs) {
    stats.generated_tokens += output.token_ids.size();
    for (const auto& other : output.others) stats.generated_tokens += other.token_ids.size();
  }
  return stats;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/tokenizer.json");
  std::error_code error;  // a link in a circle is there; ReadFile says what is wrong with it
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found) {
    return std::unique_ptr<Tokenizer>();
  }
  return Tokenizer::ReadFile(path);
}

absl::Status RunOffline(const EngineFlags& flags, const OfflineJob& job) {
  ASSIGN_OR_RETURN(EngineSetup setup, SetUpEngine(flags));
  ASSIGN_OR_RETURN(const auto session, RankSession::Start(flags, setup));
  const auto guard = session->GuardGroups(/*watchdog=*/nullptr);
  RETURN_IF_ERROR(session->PrepareGpu(&setup));
  if (session->first() && !setup.model.config.warning.empty()) {
    std::fprintf(stderr, "warning: %s\n", setup.model.config.warning.c_str());
  }
  Driver driver;
  absl::Status prepared = absl::OkStatus();
  if (session->first()) prepared = driver.Prepare(flags, setup, job);
  RETURN_IF_ERROR(session->control().Agree(prepared));
  RETURN_IF_ERROR(session->Load(flags.model.model, setup));
  if (!session->first()) {
    RunWorker(session->control(), session->stage());
    RETURN_IF_ERROR(session->WriteTimeline());
    return session->control().Agree(absl::OkStatus());
  }
  const absl::Time begin = absl::Now();
  driver.engine->Run(session->control(), session->stage());
  const OfflineStats stats = MakeStats(driver, begin);
  absl::Status status = session->WriteTimeline();
  if (status.ok()) status = job.finish(driver.requests, driver.outputs, stats);
  return session->control().Agree(status);
}

}  // namespace polystrate
