#include "engine/convert.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/architecture.h"
#include "engine/checkpoint.h"
#include "engine/json_edit.h"
#include "engine/json_writer.h"
#include "engine/safetensors_writer.h"
#include "engine/tensor_builder.h"
#include "engine/weights.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

namespace fs = std::filesystem;

// What belongs to a model beside its weights and config.json. Not everything that lies there: other
// formats of the same weights would be copied whole, and what a model card says no longer holds.
constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "tokenizer.model",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "generation_config.json",
                                       "LICENSE",
                                       "LICENSE.txt",
                                       "LICENSE.md",
                                       "NOTICE"};

// A new folder that is removed again unless it gets its final name.
class PendingFolder {
 public:
  static absl::StatusOr<PendingFolder> Create(const std::string& final_path);
  PendingFolder(PendingFolder&& other) noexcept
      : final_path_(std::move(other.final_path_)), path_(std::exchange(other.path_, "")) {}
  ~PendingFolder();

  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  absl::Status Rename();

 private:
  PendingFolder(std::string final_path, std::string path)
      : final_path_(std::move(final_path)), path_(std::move(path)) {}

  std::string final_path_;
  std::string path_;  // empty: renamed, or moved from
};

absl::StatusOr<PendingFolder> PendingFolder::Create(const std::string& final_path) {
  std::error_code error;
  // Without slashes and dots at the end, behind which no name of a sibling could be written.
  fs::path plain = fs::weakly_canonical(final_path, error);
  if (error) plain = final_path;
  plain = (plain / "").parent_path();
  if (fs::exists(fs::symlink_status(plain, error))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the output ", final_path, " exists; remove it, or name a folder that does not exist"));
  }
  const std::string path =
      absl::StrCat(plain.string(), ".partial-", absl::Hex(std::random_device()(), absl::kZeroPad8));
  if (mkdir(path.c_str(), 0777) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  return PendingFolder(plain.string(), path);
}

PendingFolder::~PendingFolder() {
  std::error_code error;  // what cannot be removed stays, under a name that says what it is
  if (!path_.empty()) fs::remove_all(path_, error);
}

absl::Status PendingFolder::Rename() {
  // Never onto anything but an empty folder: rename(2) refuses the rest.
  if (std::rename(path_.c_str(), final_path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", path_, " to ", final_path_));
  }
  path_.clear();
  return absl::OkStatus();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file.good()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (file.good()) return text.str();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
}

absl::Status CopyCompanions(const std::string& model_dir, const PendingFolder& folder) {
  for (const char* name : kCompanions) {
    const std::string from = absl::StrCat(model_dir, "/", name);
    std::error_code error;
    if (!fs::is_regular_file(from, error)) continue;
    fs::copy_file(from, folder.File(name), error);
    if (error) {
      return absl::ErrnoToStatus(error.value(),
                                 absl::StrCat("cannot copy ", from, " to ", folder.path()));
    }
  }
  return absl::OkStatus();
}

// The tensors of each new file, by the path of the old one.
using Files = std::map<std::string, std::vector<const OutputTensor*>>;

absl::Status WriteFile(const std::string& path, const std::vector<const OutputTensor*>& tensors,
                       TensorBuilder* builder,
                       const std::function<absl::Status(int64_t)>& written) {
  std::vector<NewTensor> header;
  header.reserve(tensors.size());
  for (const OutputTensor* tensor : tensors)
    header.push_back({tensor->name, tensor->dtype, tensor->shape, tensor->num_bytes()});
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, header));
  for (const OutputTensor* tensor : tensors) {
    RETURN_IF_ERROR(builder->Build(*tensor, [&writer](const void* data, int64_t num_bytes) {
      return writer.Append(data, num_bytes);
    }));
    RETURN_IF_ERROR(written(tensor->num_bytes()));
  }
  return writer.Finish();
}

std::string IndexJson(const std::map<std::string, std::string>& file_of, int64_t total_bytes) {
  JsonWriter json;
  json.BeginObject();
  json.Key("metadata").BeginObject().Key("total_size").Int(total_bytes).EndObject();
  json.Key("weight_map").BeginObject();
  for (const auto& [tensor, file] : file_of) json.Key(tensor).String(file);
  json.EndObject().EndObject();
  return json.text() + "\n";
}

absl::Status WriteWeights(const Checkpoint& checkpoint, const ConversionPlan& plan,
                          const PendingFolder& folder,
                          const std::function<absl::Status(double)>& progress) {
  Files files;
  int64_t total_bytes = 0;
  for (const OutputTensor& tensor : plan.tensors) {
    files[tensor.stored.file->path()].push_back(&tensor);
    total_bytes += tensor.num_bytes();
  }
  int64_t done_bytes = 0;
  const auto written = [&](int64_t num_bytes) {
    done_bytes += num_bytes;
    return progress(static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
  };
  TensorBuilder builder(checkpoint, plan.pooling);
  std::map<std::string, std::string> file_of;
  size_t number = 0;
  for (const auto& [old_path, tensors] : files) {
    const std::string name =
        checkpoint.sharded()
            ? absl::StrFormat("model-%05d-of-%05d.safetensors", ++number, files.size())
            : "model.safetensors";
    RETURN_IF_ERROR(WriteFile(folder.File(name), tensors, &builder, written));
    for (const OutputTensor* tensor : tensors) file_of[tensor->name] = name;
  }
  if (!checkpoint.sharded()) return absl::OkStatus();
  return WriteText(folder.File("model.safetensors.index.json"), IndexJson(file_of, total_bytes));
}

// config.json's keys that the conversion decides.
std::vector<JsonMember> ConfigMembers(const ModelConfig& config, const Conversion& conversion,
                                      const ConversionPlan& plan) {
  const KvSharing& sharing = conversion.options.sharing;
  const bool shares = sharing.shares();
  const bool neox = config.architecture == &GptNeoxArchitecture();
  // MLKV's class takes 44 layers and 64 heads where its keys are absent.
  std::vector<JsonMember> members = {
      {"num_key_value_heads", absl::StrCat(conversion.options.num_kv_heads)},
      {"num_key_value_layers", absl::StrCat(sharing.owners().size()), /*add=*/neox},
      {"kv_source", absl::StrCat("[", absl::StrJoin(sharing.kv_source, ", "), "]"),
       /*add=*/shares}};
  if (plan.intermediate_size != config.intermediate_size)
    members.push_back({"intermediate_size", absl::StrCat(plan.intermediate_size)});
  if (shares) {
    members.push_back({"reuse_keys", conversion.reuse_keys == ReuseKeys::kPostRope
                                         ? "\"post_rope\""
                                         : "\"pre_rope\""});
  }
  return members;
}

// What was written must be what was asked for, or it is not handed out.
absl::Status CheckResult(const std::string& dir, const Conversion& conversion) {
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(dir));
  CHECK(config.sharing.kv_source == conversion.options.sharing.kv_source);
  CHECK_EQ(config.num_kv_heads, conversion.options.num_kv_heads);
  return CheckWeights(dir, config);
}

}  // namespace

absl::Status Convert(const Conversion& conversion,
                     const std::function<absl::Status(double)>& progress) {
  const std::string& model_dir = conversion.model_dir;
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(model_dir));
  RETURN_IF_ERROR(CheckWeights(model_dir, config));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  ASSIGN_OR_RETURN(const ConversionPlan plan,
                   PlanConversion(config, checkpoint, conversion.options));
  ASSIGN_OR_RETURN(const std::string old_config, ReadText(model_dir + "/config.json"));
  ASSIGN_OR_RETURN(
      const std::string new_config,
      SetJsonMembers(old_config, "config.json", ConfigMembers(config, conversion, plan)));

  ASSIGN_OR_RETURN(PendingFolder folder, PendingFolder::Create(conversion.output_dir));
  RETURN_IF_ERROR(WriteText(folder.File("config.json"), new_config));
  RETURN_IF_ERROR(CopyCompanions(model_dir, folder));
  RETURN_IF_ERROR(WriteWeights(checkpoint, plan, folder, progress));
  RETURN_IF_ERROR(CheckResult(folder.path(), conversion));
  return folder.Rename();
}

}  // namespace polystrate
