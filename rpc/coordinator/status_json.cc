#include "rpc/coordinator/status_json.h"

#include <algorithm>
#include <utility>

#include "absl/container/btree_map.h"
#include "engine/json_writer.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// To the millisecond.
double UnixSeconds(absl::Time time) { return static_cast<double>(absl::ToUnixMillis(time)) / 1e3; }

JsonWriter& Count(JsonWriter* json, const char* key, uint64_t value) {
  return json->Key(key).Int(static_cast<int64_t>(value));
}

// A number of LoadInfo.attributes; null when the engine does not tell.
void Attribute(JsonWriter* json, const char* key, const google::protobuf::Struct& attributes,
               const char* name) {
  json->Key(key);
  const auto found = attributes.fields().find(name);
  if (found == attributes.fields().end() || !found->second.has_number_value()) {
    json->Null();
  } else {
    json->Double(found->second.number_value());
  }
}

void WriteCoordinator(const CoordinatorStatus& status, absl::Time now, JsonWriter* json) {
  json->BeginObject();
  json->Key("version").String(status.version);
  json->Key("time").Double(UnixSeconds(now));
  json->Key("uptime_seconds").Double(absl::ToDoubleSeconds(now - status.started));
  json->Key("streams").Int(status.streams).Key("waiting").Int(status.waiting);
  json->Key("requests").Int(status.requests).Key("failed").Int(status.failed);
  json->Key("carried").Int(status.carried).Key("quarantined").Int(status.quarantined);
  json->Key("tokens").Int(status.tokens);
  json->EndObject();
}

void WriteGroups(const v1::StageLayout& layout, JsonWriter* json) {
  absl::btree_map<uint32_t, std::vector<uint32_t>> readers;  // by owner
  for (int i = 0; i < layout.kv_source_size(); ++i) {
    const uint32_t layer = layout.first_layer() + static_cast<uint32_t>(i);
    std::vector<uint32_t>& group = readers[layout.kv_source(i)];
    if (layer != layout.kv_source(i)) group.push_back(layer);
  }
  json->Key("kv_groups").BeginArray();
  for (const auto& [owner, layers] : readers) {
    json->BeginObject().Key("owner").Int(owner).Key("readers").BeginArray();
    for (const uint32_t layer : layers) json->Int(layer);
    json->EndArray().EndObject();
  }
  json->EndArray();
}

void WriteRank(const v1::RankActivity& rank, JsonWriter* json) {
  json->BeginObject();
  json->Key("rank").Int(rank.rank()).Key("tp_rank").Int(rank.tp_rank());
  json->Key("host").String(rank.host()).Key("pid").Int(rank.pid());
  json->Key("busy_seconds").Double(rank.busy_seconds());
  json->Key("waiting_seconds").Double(rank.waiting_seconds());
  json->Key("bubble_share").Double(rank.bubble_share());
  Count(json, "steps", rank.steps());
  json->Key("doing").String(rank.doing());
  json->EndObject();
}

// A stage is what has a layout or a rank.
struct StageParts {
  const v1::StageLayout* layout = nullptr;
  std::vector<const v1::RankActivity*> ranks;
};

void WriteStages(const v1::GetStagesResponse& response, JsonWriter* json) {
  absl::btree_map<uint32_t, StageParts> stages;  // by pp_rank
  for (const v1::StageLayout& layout : response.stages()) stages[layout.pp_rank()].layout = &layout;
  for (const v1::RankActivity& rank : response.ranks()) {
    stages[rank.pp_rank()].ranks.push_back(&rank);
  }
  json->Key("stages").BeginArray();
  for (const auto& [pp_rank, stage] : stages) {
    json->BeginObject().Key("stage").Int(pp_rank);
    if (stage.layout != nullptr) {
      json->Key("first_layer").Int(stage.layout->first_layer());
      json->Key("end_layer").Int(stage.layout->end_layer());
      Count(json, "kv_bytes_per_token", stage.layout->kv_bytes_per_token());
      WriteGroups(*stage.layout, json);
    }
    json->Key("ranks").BeginArray();
    for (const v1::RankActivity* rank : stage.ranks) WriteRank(*rank, json);
    json->EndArray().EndObject();
  }
  json->EndArray();
}

void WriteLoad(const pb::LoadInfo& load, JsonWriter* json) {
  json->Key("instance").String(load.instance_id());
  json->Key("time");
  if (load.has_timestamp_unix_nanos()) {
    json->Double(
        UnixSeconds(absl::FromUnixNanos(static_cast<int64_t>(load.timestamp_unix_nanos()))));
  } else {
    json->Null();
  }
  json->Key("tokens").BeginObject();
  Attribute(json, "prompt", load.attributes(), "prompt_tokens");
  Attribute(json, "cached_prompt", load.attributes(), "cached_prompt_tokens");
  Attribute(json, "generation", load.attributes(), "generation_tokens");
  json->EndObject();
}

void WriteEngine(const EnginePool::View& view, JsonWriter* json) {
  const v1::EngineStatus& status = view.status;
  const pb::ParallelismInfo& parallelism = view.server.parallelism();
  json->BeginObject();
  json->Key("target").String(status.target()).Key("model").String(status.model());
  json->Key("version").String(view.server.engine_version());
  json->Key("serving").Bool(status.serving()).Key("problem").String(status.problem());
  Count(json, "times_lost", status.times_lost());
  Count(json, "streams", status.streams());
  Count(json, "outstanding_tokens", status.outstanding_tokens());
  Count(json, "running", status.running_requests());
  Count(json, "queued", status.queued_requests());
  Count(json, "used_blocks", status.used_kv_blocks());
  Count(json, "total_blocks", status.total_kv_blocks());
  json->Key("block_size").Int(view.server.capacity().kv_block_size());
  json->Key("max_context").Int(view.model.max_context_length());
  json->Key("tp").Int(parallelism.tensor_parallel_size());
  json->Key("pp").Int(parallelism.pipeline_parallel_size());
  WriteLoad(view.load, json);
  WriteStages(view.stages, json);
  json->EndObject();
}

}  // namespace

std::string StatusJson(const CoordinatorStatus& coordinator,
                       const std::vector<EnginePool::View>& engines, absl::Time now) {
  JsonWriter json;
  json.BeginObject().Key("coordinator");
  WriteCoordinator(coordinator, now, &json);
  json.Key("engines").BeginArray();
  for (const EnginePool::View& engine : engines) WriteEngine(engine, &json);
  json.EndArray().EndObject();
  return json.text();
}

}  // namespace polystrate
