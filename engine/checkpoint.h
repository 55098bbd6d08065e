// Checkpoint: the tensors of a Hugging Face directory, in one safetensors file or in shards that
// model.safetensors.index.json lists.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/safetensors.h"

namespace polystrate {

// Const after Open; any thread may read.
class Checkpoint {
 public:
  // A tensor and the file that holds it; valid as long as the Checkpoint.
  struct Entry {
    const SafetensorsFile* file = nullptr;
    const TensorInfo* info = nullptr;
  };

  // Opens DIR/model.safetensors, or else every shard that DIR/model.safetensors.index.json names,
  // and reads the headers. NOT_FOUND when there is neither (naming the way out where only a pickle
  // is there) or when a shard is missing. INVALID_ARGUMENT when a file is malformed, the index
  // names a tensor that its shard lacks, or a shard lies outside DIR; as an exception DIR may be a
  // snapshot of the Hugging Face hub's cache, whose files are links to its `blobs` folder.
  static absl::StatusOr<Checkpoint> Open(const std::string& model_dir);

  // nullptr when there is no such tensor.
  const Entry* Find(const std::string& name) const;
  // NOT_FOUND naming the tensor and the file (or index) that should list it.
  absl::StatusOr<Entry> Get(const std::string& name) const;
  const std::map<std::string, Entry>& entries() const { return entries_; }  // by name
  bool sharded() const { return sharded_; }  // it was opened through an index
  int64_t num_tensors() const { return static_cast<int64_t>(entries_.size()); }

 private:
  absl::Status OpenSingle(const std::string& path);
  absl::Status OpenSharded(const std::string& model_dir, const std::string& index_path);

  bool sharded_ = false;
  std::string listing_;  // the file that lists all tensors, for messages
  std::vector<std::unique_ptr<const SafetensorsFile>> files_;  // entries_ points to them
  std::map<std::string, Entry> entries_;
};

}  // namespace polystrate
