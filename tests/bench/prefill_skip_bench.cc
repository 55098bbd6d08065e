// What prefill skip saves, per sharing map, against what it leaves out: whole prompts through one
// stage with and without it, in turns, in the chunks that the scheduler makes of them. Random
// bfloat16 weights of the MLKV paper's variants of Pythia-160M, and of its CLA2. Prints medians
// with their spread; passes no judgement.
//
//   GOMP_SPINCOUNT=1000 prefill_skip_bench [num_threads=2] [repeats=9]
//
// The variable is what the program sets for itself (launcher/waiting.cc).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "engine/model_cost.h"
#include "engine/paper_variants.h"
#include "engine/pipeline_stage.h"
#include "engine/scheduler.h"
#include "kernels/machine_limits.h"
#include "tests/testing/local_engine.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxTokens = 2048, kBlockSize = 16, kChunk = 512;
constexpr DType kT = DType::kBFloat16;

// What a prompt of one row of logits takes.
struct Work {
  double operations = 0;
  double row_bytes = 0;  // weights that are read for that row alone
};

Work WorkOf(const ModelConfig& config, int64_t prompt, bool skip) {
  const auto n = static_cast<double>(prompt);
  const double query = config.num_heads * config.head_dim;
  const double kv = 2.0 * config.num_kv_heads * config.head_dim;
  const double head = static_cast<double>(config.vocab_size * config.hidden_size);
  const int last_owner = config.sharing.owners().back();
  const std::vector<LayerCost> costs = LayerCostsOf(config);
  Work work{2 * head, 0};
  for (int l = 0; l < config.num_layers; ++l) {
    const double matrices =
        static_cast<double>(costs[l].decode) - (config.sharing.owns(l) ? kv : 0.0);
    if (!skip || l < last_owner) {
      // Causal attention sees half of the square.
      work.operations += 2 * n * matrices + 4 * query * n * (n + 1) / 2;
    } else {
      const auto projections = static_cast<double>(costs[l].prefill);
      work.operations += 2 * n * projections + 2 * (matrices - projections) + 4 * query * n;
      work.row_bytes += static_cast<double>(SizeOf(kT)) * (matrices - projections);
    }
  }
  return work;
}

// The plans that prefill one prompt.
std::vector<StepPlan> PlansFor(int64_t prompt, int64_t vocab_size) {
  SchedulerOptions options;
  options.num_blocks = kMaxTokens / kBlockSize;
  options.block_size = kBlockSize;
  options.max_num_batched_tokens = kChunk;
  Scheduler scheduler(options);
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = RandomTokens(prompt, vocab_size, 1);
  sequence->prompt_len = prompt;
  scheduler.Add(std::move(sequence));
  std::vector<StepPlan> plans;
  while (auto plan = scheduler.Schedule()) plans.push_back(*std::move(plan));
  return plans;
}

class Prefill {
 public:
  Prefill(const ModelConfig& config, Stream* stream, bool skip) {
    const Stage whole = PlanStages(config.sharing, StageCostsOf(config), 1)->stages[0];
    auto weights = DummyStageWeights(config, topology_, whole, kT, stream->device());
    CHECK(weights.ok());
    const StageOptions options{kT,     kMaxTokens / kBlockSize,        kBlockSize,
                               kChunk, config.max_position_embeddings, /*max_num_seqs=*/64,
                               skip};
    auto stage = PipelineStage::Create({topology_, *stream, groups_}, config, whole,
                                       *std::move(weights), options);
    CHECK(stage.ok());
    stage_ = *std::move(stage);
  }

  double Seconds(const std::vector<StepPlan>& plans) {
    const double start = Now();
    for (const StepPlan& plan : plans) stage_->Run(plan);
    return Now() - start;
  }

 private:
  const Topology topology_{{1, 1}, 0};
  ProcessGroups groups_ = MakeSelfGroups();
  std::unique_ptr<PipelineStage> stage_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Limits {
  double read, matrix;
};

void Measure(const PaperVariant& variant, Stream* stream, int repeats, const Limits& limits) {
  Prefill whole(variant.config, stream, /*skip=*/false), skipping(variant.config, stream, true);
  for (const int64_t prompt : {512, 2000}) {
    const std::vector<StepPlan> plans = PlansFor(prompt, variant.config.vocab_size);
    whole.Seconds(plans);
    skipping.Seconds(plans);
    std::vector<double> off, on, ratio;
    for (int i = 0; i < repeats; ++i) {
      off.push_back(whole.Seconds(plans));
      on.push_back(skipping.Seconds(plans));
      ratio.push_back(off.back() / on.back());
    }
    const Work all = WorkOf(variant.config, prompt, false);
    const Work left = WorkOf(variant.config, prompt, true);
    const double seconds = Median(off);
    // What is left at the speed of the whole, and the weights that its one row reads by itself.
    const double expected =
        seconds / (seconds * left.operations / all.operations + left.row_bytes / limits.read);
    const auto spread = [](const std::vector<double>& x) {
      const auto [least, most] = std::minmax_element(x.begin(), x.end());
      std::printf(" %8.2f (%7.2f..%8.2f)", Median(x) * 1e3, *least * 1e3, *most * 1e3);
    };
    std::printf("%-8s %6lld", variant.name.c_str(), static_cast<long long>(prompt));
    spread(off);
    std::printf(" %4.0f%%", 100 * all.operations / seconds / limits.matrix);
    spread(on);
    std::printf(" %4.0f%%", 100 * left.operations / Median(on) / limits.matrix);
    std::printf(" %8.2f %9.2f %9.2f\n", Median(ratio), all.operations / left.operations, expected);
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 9;
  if (argc > 3 || threads < 1 || repeats < 5) {
    std::fprintf(stderr, "usage: prefill_skip_bench [threads] [repeats, 5 or more]\n");
    return 2;
  }
  Stream stream = Stream::Cpu(threads);
  const Limits limits = {MeasureReadBandwidth(threads), MeasureMatrixRate(stream, kT)};
  std::vector<PaperVariant> variants = MlkvVariants();
  PaperVariant cla2{"CLA2", variants.front().config};
  cla2.config.sharing = KvSharing::Cla(cla2.config.num_layers, 2).value();
  variants.push_back(cla2);
  std::printf(
      "Pythia-160M's variants, bfloat16, chunks of %lld tokens, %d threads; limits: read %.1f "
      "GB/s, "
      "matrix product %.3f TFLOP/s\n"
      "theory: operations without / with; expected: at the speed without, plus the weights that "
      "the last row reads alone\n\n"
      "%-8s %6s %28s %5s %28s %5s %8s %9s %9s\n",
      static_cast<long long>(kChunk), threads, limits.read / kGiga, limits.matrix / kTera, "",
      "prompt", "ms without (min..max)", "limit", "ms with (min..max)", "limit", "speed-up",
      "theory", "expected");
  for (const PaperVariant& variant : variants) Measure(variant, &stream, repeats, limits);
  return 0;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) { return polystrate::Main(argc, argv); }
