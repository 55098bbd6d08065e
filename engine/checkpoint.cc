#include "engine/checkpoint.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

namespace fs = std::filesystem;

// The largest index published (over 90,000 tensors) has 9 MB.
constexpr int64_t kMaxIndexBytes = 64 << 20;

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool IsBelow(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != ".." && *relative.begin() != ".";
}

// Where the shard `name` of an index lies. An index is a stranger's text: it may not make the
// engine open files elsewhere, neither by its path nor through a link. The hub's cache keeps files
// in REPO/blobs and links to them from REPO/snapshots/REVISION; that is the one exception.
absl::StatusOr<std::string> ShardPath(const std::string& model_dir, const std::string& index_path,
                                      const std::string& name) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": shard '", name, "' ", what));
  };
  const fs::path relative(name);
  if (name.empty() || name.find('\0') != std::string::npos || relative.is_absolute() ||
      !IsBelow(relative.lexically_normal(), ".")) {
    return error("is not a path below the model's folder");
  }
  std::error_code failure;
  const fs::path folder = fs::canonical(model_dir, failure);
  const std::string path = model_dir + "/" + name;
  const fs::path target = fs::weakly_canonical(path, failure);
  if (failure) return error(absl::StrCat("cannot be resolved: ", failure.message()));
  const bool in_hub_cache = folder.parent_path().filename() == "snapshots" &&
                            IsBelow(target, folder.parent_path().parent_path() / "blobs");
  if (!IsBelow(target, folder) && !in_hub_cache)
    return error(absl::StrCat("is a link that leaves the model's folder, to ", target.string()));
  if (!Exists(path))
    return absl::NotFoundError(absl::StrCat(index_path, ": shard '", name, "' does not exist"));
  return path;
}

absl::Status NoCheckpoint(const std::string& model_dir) {
  for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!Exists(model_dir + "/" + pickle)) continue;
    return absl::NotFoundError(absl::StrCat(model_dir, " has ", pickle,
                                            " but no model.safetensors. A pickle can run code when "
                                            "it is read, so the engine reads none; "
                                            "convert it once: python3 tools/to_safetensors.py ",
                                            model_dir));
  }
  return absl::NotFoundError(
      absl::StrCat(model_dir, " has neither model.safetensors nor model.safetensors.index.json"));
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& model_dir) {
  Checkpoint checkpoint;
  const std::string single = model_dir + "/model.safetensors";
  const std::string index = model_dir + "/model.safetensors.index.json";
  if (Exists(single)) {
    RETURN_IF_ERROR(checkpoint.OpenSingle(single));
  } else if (Exists(index)) {
    RETURN_IF_ERROR(checkpoint.OpenSharded(model_dir, index));
  } else {
    return NoCheckpoint(model_dir);
  }
  return checkpoint;
}

absl::Status Checkpoint::OpenSingle(const std::string& path) {
  listing_ = path;
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  files_.push_back(std::make_unique<const SafetensorsFile>(std::move(file)));
  for (const auto& [name, info] : files_[0]->tensors())
    entries_.emplace(name, Entry{files_[0].get(), &info});
  return absl::OkStatus();
}

absl::Status Checkpoint::OpenSharded(const std::string& model_dir, const std::string& index_path) {
  sharded_ = true;
  listing_ = index_path;
  ASSIGN_OR_RETURN(const Json json, Json::ReadFile(index_path, kMaxIndexBytes));
  if (!json.root().IsObject()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": expected an object with a weight_map"));
  }
  ASSIGN_OR_RETURN(const JsonView weight_map, json.root().GetObject("weight_map"));
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [tensor, value] : weight_map.Members()) {
    const std::string name(tensor);
    ASSIGN_OR_RETURN(const std::string_view shard_view, value.AsString(name));
    const std::string shard(shard_view);
    if (!shards.contains(shard)) {
      ASSIGN_OR_RETURN(const std::string path, ShardPath(model_dir, index_path, shard));
      ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
      files_.push_back(std::make_unique<const SafetensorsFile>(std::move(file)));
      shards.emplace(shard, files_.back().get());
    }
    const SafetensorsFile* file = shards[shard];
    const TensorInfo* info = file->Find(name);
    if (info == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, " places tensor '", name, "' in ",
                                                     file->path(), ", which has no such tensor"));
    }
    entries_.emplace(name, Entry{file, info});
  }
  return absl::OkStatus();
}

const Checkpoint::Entry* Checkpoint::Find(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second;
}

absl::StatusOr<Checkpoint::Entry> Checkpoint::Get(const std::string& name) const {
  const Entry* entry = Find(name);
  if (entry != nullptr) return *entry;
  return absl::NotFoundError(absl::StrCat("tensor '", name, "' is missing from ", listing_, " (",
                                          num_tensors(), " tensors)"));
}

}  // namespace polystrate
