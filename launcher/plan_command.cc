#include "launcher/plan_command.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/flags.h"

namespace polystrate {
namespace {

constexpr size_t kMapWidth = 84;  // columns of the sharing map, beside the 14 of its label

// 12345678 -> "12,345,678"
std::string Grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, ",");
  return digits;
}

std::string Plural(int64_t count, const std::string& noun) {
  return absl::StrCat(Grouped(count), " ", noun, count == 1 ? "" : "s");
}

// "*0 1 2 | *3 4 5 || *6 ...": owners are starred, each reuser follows the owner it reads or names
// it in brackets; broken into lines of kMapWidth.
std::string SharingMap(const KvSharing& sharing, const StagePlan& plan) {
  const std::vector<int> legal_cuts = sharing.legal_cuts();
  std::string map, line;
  int last_owner = 0, stage = 0;
  for (int l = 0; l < sharing.num_layers(); ++l) {
    std::string word;
    if (l == plan.stages[stage].end_layer) {
      ++stage;
      word = "|| ";
    } else if (std::binary_search(legal_cuts.begin(), legal_cuts.end(), l)) {
      word = "| ";
    }
    if (sharing.owns(l)) {
      last_owner = l;
      absl::StrAppend(&word, "*", l);
    } else if (sharing.kv_source[l] == last_owner) {
      absl::StrAppend(&word, l);
    } else {
      absl::StrAppend(&word, l, "(", sharing.kv_source[l], ")");
    }
    if (line.size() + word.size() >= kMapWidth) {
      absl::StrAppend(&map, line, "\n              ");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  absl::StrAppend(&map, line, "\n");
  return map;
}

std::string ModelText(const ModelSetup& setup) {
  const ModelConfig& config = setup.config;
  std::string text = absl::StrFormat("model         %s, %d query heads, %s of %d, %s\n",
                                     Plural(config.num_layers, "layer"), config.num_heads,
                                     Plural(config.num_kv_heads, "KV head"), config.head_dim,
                                     Plural(config.NumParameters(), "parameter"));
  absl::StrAppend(&text, "sharing map   ", SharingMap(config.sharing, setup.stage_plan));
  absl::StrAppend(&text,
                  "              * owner; others read the owner before them, or the one in ();",
                  " | legal cut, || chosen cut\n");
  const std::vector<int> cuts = config.sharing.legal_cuts();
  const std::string list = cuts.empty()               ? "none"
                           : !config.sharing.shares() ? "before every layer"
                                                      : absl::StrJoin(cuts, ",");
  absl::StrAppend(&text, "legal cuts    ", list, "; --pp 1",
                  cuts.empty() ? "" : absl::StrCat(" to ", cuts.size() + 1), "\n");
  return text;
}

std::string StagesText(const ModelSetup& setup) {
  double total = 0;
  for (const Stage& stage : setup.stage_plan.stages) total += stage.cost;
  std::string text = absl::StrFormat(
      "\ntp %d x pp %d = %s\n%5s %9s %7s %16s %7s %21s %16s\n", setup.parallel.tp_size,
      setup.parallel.pp_size, Plural(setup.parallel.world_size(), "rank"), "stage", "layers",
      "owners", "cost (elements)", "share", "KV bytes/token/rank", "KV blocks/rank");
  for (int s = 0; s < setup.stage_plan.pp_size(); ++s) {
    const Stage& stage = setup.stage_plan.stages[s];
    const StageMemory& memory = setup.memory.stages[s];
    absl::StrAppendFormat(&text, "%5d %9s %7d %16s %6.1f%% %21s %16s\n", s,
                          absl::StrCat(stage.first_layer, "-", stage.end_layer - 1),
                          stage.owners.size(), Grouped(static_cast<int64_t>(stage.cost)),
                          100 * stage.cost / total, Grouped(memory.kv_bytes_per_token),
                          Grouped(memory.num_blocks));
  }
  if (setup.memory.kv_head_copies > 0) {
    absl::StrAppend(&text, "--tp ", setup.parallel.tp_size, " does not divide ",
                    Plural(setup.config.num_kv_heads, "KV head"), ": the ranks of a stage hold ",
                    setup.config.num_kv_heads + setup.memory.kv_head_copies, " together, ",
                    setup.memory.kv_head_copies, " of them copies\n");
  }
  return text;
}

std::string MemoryText(const ModelSetup& setup) {
  const ModelConfig& config = setup.config;
  const int64_t model = config.KvBytesPerToken(setup.dtype);
  const int64_t mqa = 2 * int64_t{config.num_layers} * config.head_dim * SizeOf(setup.dtype);
  const auto row = [model](const char* name, int64_t bytes) {
    return absl::StrFormat("  %-24s %12s %8.2fx\n", name, Grouped(bytes),
                           static_cast<double>(bytes) / static_cast<double>(model));
  };
  std::string text = absl::StrCat("\nKV bytes per token, ", Name(setup.dtype), "\n");
  absl::StrAppend(&text, row("this model", model),
                  row("as MHA, nothing shared", mqa * config.num_heads),
                  row("as MQA, nothing shared", mqa));

  const MemoryPlan& memory = setup.memory;
  absl::StrAppend(&text, "\n", Grouped(memory.kv_memory), " bytes of KV cache on each rank hold ",
                  Plural(memory.num_blocks, "block"), " of ", Plural(memory.block_size, "token"),
                  ": ", Plural(memory.max_tokens(), "token"), ", or ",
                  Plural(memory.MaxSequences(setup.max_model_len), "sequence"), " of ",
                  Grouped(setup.max_model_len), "\n");
  return text;
}

void WriteInts(const std::vector<int>& values, JsonWriter* json) {
  json->BeginArray();
  for (int value : values) json->Int(value);
  json->EndArray();
}

void WriteStages(const ModelSetup& setup, JsonWriter* json) {
  json->BeginArray();
  for (int s = 0; s < setup.stage_plan.pp_size(); ++s) {
    const Stage& stage = setup.stage_plan.stages[s];
    const StageMemory& memory = setup.memory.stages[s];
    json->BeginObject();
    json->Key("first_layer").Int(stage.first_layer);
    json->Key("end_layer").Int(stage.end_layer);
    json->Key("owners");
    WriteInts(stage.owners, json);
    json->Key("cost").Int(static_cast<int64_t>(stage.cost));
    json->Key("kv_bytes_per_token").Int(memory.kv_bytes_per_token);
    json->Key("num_blocks").Int(memory.num_blocks);
    json->EndObject();
  }
  json->EndArray();
}

}  // namespace

std::string PlanText(const ModelSetup& setup) {
  return absl::StrCat(ModelText(setup), StagesText(setup), MemoryText(setup));
}

std::string PlanJson(const ModelSetup& setup) {
  const ModelConfig& config = setup.config;
  JsonWriter json;
  json.BeginObject();
  json.Key("num_layers").Int(config.num_layers);
  json.Key("num_parameters").Int(config.NumParameters());
  json.Key("kv_source");
  WriteInts(config.sharing.kv_source, &json);
  json.Key("owners");
  WriteInts(config.sharing.owners(), &json);
  json.Key("legal_cuts");
  WriteInts(config.sharing.legal_cuts(), &json);
  json.Key("tp").Int(setup.parallel.tp_size);
  json.Key("pp").Int(setup.parallel.pp_size);
  json.Key("dtype").String(Name(setup.dtype));
  json.Key("stages");
  WriteStages(setup, &json);
  json.Key("kv_bytes_per_token").Int(config.KvBytesPerToken(setup.dtype));
  json.Key("kv_heads_per_rank").Int(setup.memory.kv_heads_per_rank);
  json.Key("copies").Int(setup.memory.kv_head_copies);
  json.Key("kv_memory").Int(setup.memory.kv_memory);
  json.Key("block_size").Int(setup.memory.block_size);
  json.Key("num_blocks").Int(setup.memory.num_blocks);
  json.Key("max_tokens").Int(setup.memory.max_tokens());
  json.Key("max_model_len").Int(setup.max_model_len);
  json.Key("max_sequences").Int(setup.memory.MaxSequences(setup.max_model_len));
  json.EndObject();
  return json.text();
}

absl::Status PlanCommand(const Arguments& arguments) {
  FlagSet flags(
      "polystrate plan: which layers share a KV cache, where the pipeline is cut, what fits");
  ModelFlags model;
  model.AddTo(&flags);
  bool print_json = false;
  flags.Add("json", &print_json, "print one line of JSON");
  RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const ModelSetup setup,
                   SetUpModel(model, kDefaultBatchedTokens, kDefaultNumSeqs));
  if (!setup.config.warning.empty()) {
    std::fprintf(stderr, "warning: %s\n", setup.config.warning.c_str());
  }
  std::fputs((print_json ? PlanJson(setup) + "\n" : PlanText(setup)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace polystrate
