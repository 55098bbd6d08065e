#include <atomic>
#include <cstdio>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/convert.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/engine_setup.h"
#include "launcher/flags.h"
#include "launcher/progress.h"
#include "launcher/signals.h"
#include "parallel/kv_source_text.h"

namespace polystrate {
namespace {

struct ConvertFlags {
  std::string model;
  std::string output;
  std::optional<int64_t> kv_layers;
  std::optional<int64_t> kv_heads;
  std::optional<std::string> kv_source;
  std::optional<std::string> pool;
  bool grow_mlp = false;
  std::optional<std::string> reuse_keys;

  void AddTo(FlagSet* flags);
};

void ConvertFlags::AddTo(FlagSet* flags) {
  flags->Add("model", &model, "Hugging Face model directory, sharing none (required)");
  flags->Add("output", &output, "directory to write, which must not exist (required)");
  flags->Add("kv_layers", &kv_layers, "MLKV: how many layers own a KV cache; with --kv_heads");
  flags->Add("kv_heads", &kv_heads, "KV heads of a layer; must divide the model's");
  flags->Add("kv_source", &kv_source,
             "instead of --kv_layers: the layer each layer reads, as 0,0,2,2, or cla2, mlkv4, "
             "keep_ends, dense_front, dense_back");
  flags->Add("pool", &pool,
             "sequential (as pythia-mlkv's converter) or mean (of all alike) (required)");
  flags->Add("grow_mlp", &grow_mlp, "give the MLPs the parameters that K and V lose");
  flags->Add("reuse_keys", &reuse_keys,
             "post_rope or pre_rope: which keys the new model's reusing layers will read "
             "(default: post_rope)");
}

absl::Status CheckFlags(const ConvertFlags& flags) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is required");
  if (flags.output.empty()) return absl::InvalidArgumentError("--output is required");
  if (flags.kv_source.has_value() && flags.kv_layers.has_value()) {
    return absl::InvalidArgumentError(
        "--kv_layers and --kv_source both say which layers own; give one of them");
  }
  if (!flags.kv_source.has_value() && !flags.kv_layers.has_value())
    return absl::InvalidArgumentError("give --kv_layers and --kv_heads, or --kv_source");
  if (flags.kv_layers.has_value() && !flags.kv_heads.has_value())
    return absl::InvalidArgumentError("--kv_layers needs --kv_heads");
  if (!flags.pool.has_value())
    return absl::InvalidArgumentError("--pool is required: sequential or mean");
  return absl::OkStatus();
}

absl::StatusOr<KvSharing> ChooseSharing(const ConvertFlags& flags, int num_layers) {
  if (flags.kv_source.has_value()) return ParseKvSource(*flags.kv_source, num_layers);
  if (*flags.kv_layers < 1 || *flags.kv_layers > num_layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv_layers is ", *flags.kv_layers, "; expected 1 to the number of layers, ", num_layers));
  }
  return KvSharing::Mlkv(num_layers, static_cast<int>(*flags.kv_layers));
}

absl::StatusOr<ReuseKeys> ChooseKeys(const ConvertFlags& flags, const KvSharing& sharing) {
  if (!flags.reuse_keys.has_value()) return ReuseKeys::kPostRope;
  if (!sharing.shares()) {
    return absl::InvalidArgumentError(
        "--reuse_keys says which keys a reusing layer reads, but no layer would reuse");
  }
  if (*flags.reuse_keys == "post_rope") return ReuseKeys::kPostRope;
  if (*flags.reuse_keys == "pre_rope") return ReuseKeys::kPreRope;
  return absl::InvalidArgumentError(
      absl::StrCat("--reuse_keys is \"", *flags.reuse_keys, "\"; it takes post_rope or pre_rope"));
}

absl::StatusOr<Conversion> MakeConversion(const ConvertFlags& flags) {
  RETURN_IF_ERROR(CheckFlags(flags));
  Conversion conversion = {.model_dir = flags.model, .output_dir = flags.output};
  ConversionOptions& options = conversion.options;
  if (flags.pool != "sequential" && flags.pool != "mean") {
    return absl::InvalidArgumentError(
        absl::StrCat("--pool is \"", *flags.pool, "\"; it takes sequential or mean"));
  }
  options.pooling = flags.pool == "mean" ? Pooling::kMean : Pooling::kSequential;
  options.grow_mlp = flags.grow_mlp;
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(flags.model));
  ASSIGN_OR_RETURN(options.sharing, ChooseSharing(flags, config.num_layers));
  ASSIGN_OR_RETURN(conversion.reuse_keys, ChooseKeys(flags, options.sharing));
  const int64_t kv_heads = flags.kv_heads.value_or(config.num_kv_heads);
  if (kv_heads < 1 || kv_heads > config.num_kv_heads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv_heads is ", kv_heads, "; expected 1 to the model's KV heads, ", config.num_kv_heads));
  }
  options.num_kv_heads = static_cast<int>(kv_heads);
  return conversion;
}

// What was gained, to standard error: there is no result to print.
absl::Status Report(const Conversion& conversion) {
  ASSIGN_OR_RETURN(const ModelConfig before, ReadModelConfig(conversion.model_dir));
  ASSIGN_OR_RETURN(const ModelConfig after, ReadModelConfig(conversion.output_dir));
  ASSIGN_OR_RETURN(const DType dtype,
                   ChooseDType(std::nullopt, after, DeviceType::kCpu));  // as `plan` has it
  std::fprintf(stderr,
               "convert: wrote %s: %zu of %d layers own, %d KV head%s each; KV cache %lld -> %lld "
               "bytes a token in %s; %lld -> %lld parameters\n",
               conversion.output_dir.c_str(), after.sharing.owners().size(), after.num_layers,
               after.num_kv_heads, after.num_kv_heads == 1 ? "" : "s",
               static_cast<long long>(before.KvBytesPerToken(dtype)),
               static_cast<long long>(after.KvBytesPerToken(dtype)),
               std::string(Name(dtype)).c_str(), static_cast<long long>(before.NumParameters()),
               static_cast<long long>(after.NumParameters()));
  return absl::OkStatus();
}

}  // namespace

absl::Status ConvertCommand(const Arguments& arguments) {
  FlagSet flag_set(
      "polystrate convert: a model with fewer KV heads or layers, its K and V pooled from one that "
      "shares none");
  ConvertFlags flags;
  flags.AddTo(&flag_set);
  RETURN_IF_ERROR(flag_set.Parse(arguments));
  if (flag_set.help_requested()) {
    std::fputs(flag_set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Conversion conversion, MakeConversion(flags));
  // What is half written goes away when the user changes their mind.
  std::atomic<bool> stopped{false};
  InstallDrainSignals();
  const SignalWatcher watcher([&stopped](DrainSignal) { stopped = true; });
  Progress progress("converting", /*shown=*/true);
  RETURN_IF_ERROR(Convert(conversion, [&](double done) -> absl::Status {
    progress.Update(done);
    return stopped ? absl::CancelledError("stopped by a signal; nothing was written")
                   : absl::OkStatus();
  }));
  return Report(conversion);
}

}  // namespace polystrate
