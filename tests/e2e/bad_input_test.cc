// What a user can get wrong, through the real binary: exit code 2, one message that names the
// thing, nothing on standard output, in bounded time and memory, and no process left behind. The
// kinds in all their variants are tested at library level (tests/engine/, tests/rpc/).

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);  // a busy machine, not a slow answer
constexpr char kTokenizer[] = R"({"version": "1.0", "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";

// Layers 0..3 and 4..7 of 8 share; 6 heads, a context of 256.
TinyModelSpec Spec() {
  TinyModelSpec spec;
  spec.num_layers = 8;
  spec.num_kv_heads = 2;
  spec.num_kv_layers = 2;
  spec.reuse_keys = "post_rope";
  return spec;
}

// In at most 8 GB of addresses: what asks for more out of bad input fails otherwise than expected.
// A sanitizer keeps terabytes of its own.
CommandLine Bounded(const CommandLine& command) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return command;
#else
  CommandLine bounded = {"sh", "-c", "ulimit -v 8000000; exec \"$@\"", "sh"};
  bounded.insert(bounded.end(), command.begin(), command.end());
  return bounded;
#endif
}

class BadInput : public testing::Test {
 protected:
  BadInput() { WriteTinyModel(dir_.path(), Spec()); }

  CommandLine Generate(const CommandLine& flags) const {
    CommandLine command = {"generate", "--model",      dir_.path(), "--max_tokens",
                           "2",        "--prompt_ids", "5,6,7",     "--threads",
                           "1",        "--kv_memory",  "4194304"};
    command.insert(command.end(), flags.begin(), flags.end());  // the last of a flag counts
    return Bounded(Polystrate(command));
  }
  // With another prompt than Generate()'s.
  CommandLine Prompted(const CommandLine& flags) const {
    CommandLine command = {"generate", "--model", dir_.path(), "--max_tokens", "2"};
    command.insert(command.end(), flags.begin(), flags.end());
    return Bounded(Polystrate(command));
  }

  static int Count(const std::string& text, const std::string& part) {
    const std::vector<std::string> parts = absl::StrSplit(text, part);
    return static_cast<int>(parts.size()) - 1;
  }
  // Refused as the user's mistake, with `message` on standard error exactly once.
  void ExpectRefused(const CommandLine& command, const std::string& message) const {
    SCOPED_TRACE(absl::StrJoin(command, " "));
    const CommandResult result = RunCommand(command, kTimeout);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(Count(result.err, message), 1) << "expected: " << message << "\n" << result.err;
    EXPECT_EQ(Count(result.err, "error: "), 1) << result.err;
  }
  void ExpectRefusedByRanks(int ranks, const CommandLine& command,
                            const std::string& message) const {
    ExpectRefused(Mpirun(ranks, command), message);
    EXPECT_TRUE(AllGone(dir_.path(), absl::Seconds(10)));
  }
  void Edit(const std::string& name, const std::string& from, const std::string& to) const {
    const std::string text = ReadFile(dir_.File(name));
    ASSERT_TRUE(absl::StrContains(text, from)) << name << " has no " << from;
    WriteFile(dir_.File(name), absl::StrReplaceAll(text, {{from, to}}));
  }

  TempDir dir_;
};

TEST_F(BadInput, HelpOfEverySubcommand) {
  for (const char* name : {"generate", "score", "eval", "serve", "client", "plan", "bench"}) {
    const CommandResult result = RunCommand(Polystrate({name, "--help"}), kTimeout);
    EXPECT_EQ(result.exit_code, 0) << name;
    EXPECT_TRUE(absl::StartsWith(result.out, absl::StrCat("polystrate ", name, ": ")));
    EXPECT_EQ(result.err, "");
  }
  const CommandResult all = RunCommand(Polystrate({"--help"}), kTimeout);
  EXPECT_EQ(all.exit_code, 0);
  EXPECT_TRUE(absl::StrContains(all.out, "usage: polystrate COMMAND"));
}

TEST_F(BadInput, Commands) {
  ExpectRefused(Polystrate({"nonsense"}), "unknown command \"nonsense\"");
  const CommandResult none = RunCommand(Polystrate({}), kTimeout);
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_EQ(none.out, "");
  EXPECT_TRUE(absl::StrContains(none.err, "usage: "));
}

TEST_F(BadInput, Flags) {
  ExpectRefused(Generate({"--max_token", "3"}),
                "unknown flag --max_token; did you mean --max_tokens?");
  ExpectRefused(Generate({"extra"}), "\"extra\" is no flag");
  ExpectRefused(Generate({"--seed"}), "--seed needs a value");
  ExpectRefused(Generate({"--seed", "-1"}), "--seed takes an integer, not \"-1\"");
  ExpectRefused(Generate({"--json=maybe"}), "--json takes true or false");
  ExpectRefused(Generate({"--max_tokens", "9223372036854775808"}), "--max_tokens takes an integer");
  ExpectRefused(Generate({"--max_tokens", "0"}), "max_tokens is 0");
  ExpectRefused(Generate({"--max_tokens", "-1"}), "max_tokens is -1");
  ExpectRefused(Generate({"--dtype", "nonsense"}), "--dtype is \"nonsense\"");
  ExpectRefused(Generate({"--reuse_keys", "both"}), "--reuse_keys is \"both\"");
  ExpectRefused(Generate({"--load_format", "gguf"}), "--load_format is \"gguf\"");
  ExpectRefused(Generate({"--threads", "0"}), "--threads is 0");
  ExpectRefused(Generate({"--max_model_len", "257"}), "--max_model_len is 257");
  ExpectRefused(Generate({"--max_num_seqs", "0"}), "--max_num_seqs is 0");
  ExpectRefused(Generate({"--max_num_batched_tokens", "65537"}), "--max_num_batched_tokens is 655");
  ExpectRefused(Generate({"--timeline", "/nonexistent/t.json"}), "cannot write /nonexistent");
}

TEST_F(BadInput, Memory) {
  ExpectRefused(Generate({"--block_size", "0"}), "--block_size is 0");
  ExpectRefused(Generate({"--block_size", "9223372036854775807"}), "--block_size is 9223");
  ExpectRefused(Generate({"--kv_memory", "100"}), "--kv_memory 100 holds no KV block");
  ExpectRefused(Generate({"--kv_memory", "-1"}), "--kv_memory -1 holds no KV block");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  ExpectRefused(Generate({"--kv_memory", "9223372036854775807"}),
                "the KV cache of --kv_memory: cannot allocate");
#endif
}

TEST_F(BadInput, Sampling) {
  for (const char* temperature : {"nan", "inf", "-0.1", "2.1", "1e999"}) {
    ExpectRefused(Generate({"--temperature", temperature}), "temperature is ");
  }
  ExpectRefused(Generate({"--temperature", "warm"}), "--temperature takes a number");
  ExpectRefused(Generate({"--top_p", "0"}), "top_p is 0");
  ExpectRefused(Generate({"--top_p", "nan"}), "top_p is nan");
  ExpectRefused(Generate({"--top_k", "-2"}), "top_k is -2");
  ExpectRefused(Generate({"--top_k", "4294967297"}), "--top_k is 4294967297");  // 1 in 32 bits
}

TEST_F(BadInput, Prompts) {
  ExpectRefused(Prompted({}), "give one of --prompt, --prompt_ids and --prompts, not none");
  ExpectRefused(Generate({"--prompt", "a"}), "not several");
  ExpectRefused(Generate({"--prompt_ids", ""}), "--prompt_ids");
  ExpectRefused(Generate({"--prompt_ids", "1,x"}), "\"x\" is none");
  ExpectRefused(Generate({"--prompt_ids", "-1"}), "prompt token id -1");
  ExpectRefused(Generate({"--prompt_ids", "96"}), "prompt token id 96 is not in the vocabulary");
  ExpectRefused(Generate({"--prompt_ids", "99999999999"}), "\"99999999999\" is none");
  std::string ids = "1";
  for (int i = 1; i < 256; ++i) ids += ",1";
  ExpectRefused(Generate({"--prompt_ids", ids}), "256 tokens; the context is 256");
  // One block of 16 tokens: 2 * 2 heads * 8 * 4 bytes * 16 for each of the two owners.
  ExpectRefused(Generate({"--max_tokens", "100", "--kv_memory", "4096"}), "can never run here");
  ExpectRefused(Prompted({"--prompt", "a"}), "no tokenizer.json; give token ids");
}

TEST_F(BadInput, PromptsFromAFile) {
  const std::string file = dir_.File("prompts.jsonl");
  const auto refused = [&](const std::string& text, const std::string& message) {
    WriteFile(file, text);
    ExpectRefused(Prompted({"--prompts", file}), message);
  };
  const std::string good = "{\"prompt_ids\": [1, 2]}\n\n";
  refused(good + "{\"prompt_ids\": [1, 2}\n", "prompts.jsonl:3: not valid JSON");
  refused(good + "[1]\n", "prompts.jsonl:3: expected {\"prompt\"");
  refused(good + "{\"prompt_ids\": []}\n", "prompts.jsonl:3: the prompt is empty");
  refused(good + "{\"prompt_ids\": [-1]}\n", "prompts.jsonl:3: \"prompt_ids\" is -1");
  refused(good + "{\"prompt_ids\": [1.5]}\n", "prompts.jsonl:3: \"prompt_ids\" is 1.5");
  refused(good + "{\"prompt\": \"a\"}\n", "prompts.jsonl:3: the model directory has no tokenizer");
  refused(good + "{\"text\": \"a\", \"token_ids\": [1]}\n", "prompts.jsonl:3: several prompts");
  refused(good + "{\"prompt_ids\": [96]}\n", "request 2: prompt token id 96");
  refused(std::string(40, '['), "prompts.jsonl:1: nested deeper than 32");
  refused("\n \n", "has no prompts");
  ExpectRefused(Prompted({"--prompts", "/nonexistent.jsonl"}), "cannot read /nonexistent.jsonl");
  ExpectRefused(Prompted({"--prompts", dir_.path()}), "cannot read ");
  ExpectRefused(Prompted({"--prompts", "/dev/zero"}), "/dev/zero:1: too long");
  ExpectRefused(Polystrate({"score", "--model", dir_.path()}), "--input is required");
  ExpectRefused(Polystrate({"score", "--model", dir_.path(), "--input", "/nonexistent"}),
                "cannot read /nonexistent");
}

TEST_F(BadInput, Config) {
  ExpectRefused(Prompted({"--prompt_ids", "1", "--model", "/nonexistent"}), "/nonexistent/config");
  ExpectRefused(Polystrate({"generate", "--prompt_ids", "1"}), "--model is required");
  const std::string original = ReadFile(dir_.File("config.json"));
  const auto refused = [&](const std::string& from, const std::string& to,
                           const std::string& message) {
    WriteFile(dir_.File("config.json"), original);
    Edit("config.json", from, to);
    ExpectRefused(Generate({}), message);
  };
  const std::string hidden = "\"hidden_size\": 48";
  refused(hidden, "\"hidden_size\": 99999999999", "\"hidden_size\" is 99999999999");
  refused(hidden, "\"hidden_size\": 50", "hidden_size");
  refused(hidden, "\"hidden_size\": \"48\"", "\"hidden_size\" is the string");
  refused("\"num_key_value_layers\": 2", "\"num_key_value_layers\": 9", "num_key_value_layers");
  WriteFile(dir_.File("config.json"), original.substr(0, original.size() / 2));
  ExpectRefused(Generate({}), "config.json: not valid JSON");
  std::filesystem::remove(dir_.File("config.json"));
  ExpectRefused(Generate({}), "config.json: no such file");
  ASSERT_EQ(mkfifo(dir_.File("config.json").c_str(), 0600), 0);  // reading it would never end
  ExpectRefused(Generate({}), "config.json: not a regular file");
}

TEST_F(BadInput, SharingMaps) {
  ExpectRefused(Generate({"--kv_source", "0,1,3,3,4,4,4,4"}),
                "--kv_source: kv_source[2] is 3; expected 0 to 2");
  ExpectRefused(Generate({"--kv_source", "0,0,1,1,4,4,4,4"}), "but layer 1 has no KV cache");
  ExpectRefused(Generate({"--kv_source", "0,0"}), "has 2 entries; expected one for each of the 8");
  ExpectRefused(Generate({"--kv_source", "cla"}), "is no sharing map; expected");
  // An owner that the checkpoint has no K and V for.
  ExpectRefused(Generate({"--kv_source", "cla1"}), "attention.key.weight' is missing");
}

TEST_F(BadInput, Architectures) {
  TinyModelSpec spec;
  spec.model_type = "mistral";
  WriteTinyModel(dir_.path(), spec);
  Edit("config.json", "\"sliding_window\": null", "\"sliding_window\": 100");
  ExpectRefused(Generate({}), "Say --max_model_len 100");
  EXPECT_EQ(RunCommand(Generate({"--max_model_len", "100"}), kTimeout).exit_code, 0);
  Edit("config.json", "\"mistral\"", "\"mamba\"");
  ExpectRefused(Generate({}), "\"model_type\" is the string \"mamba\", expected a supported one");
}

TEST_F(BadInput, Weights) {
  const std::string path = dir_.File("model.safetensors");
  const std::string original = ReadFile(path);
  WriteFile(path, original.substr(0, original.size() - 5));
  ExpectRefused(Generate({}), "it is cut short");
  WriteFile(path, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + original.substr(8));
  ExpectRefused(Generate({}), "model.safetensors");
  WriteFile(path, SafetensorsBytes(R"({"x":{"dtype":"F32","shape":[4611686018427387904,16],)"
                                   R"("data_offsets":[0,4]}})",
                                   "1234"));
  ExpectRefused(Generate({}), "model.safetensors");
  WriteFile(path, "");
  ExpectRefused(Generate({}), "model.safetensors");
  std::filesystem::remove(path);
  ExpectRefused(Generate({}), "has neither model.safetensors nor");
  std::filesystem::create_symlink("/dev/zero", path);
  ExpectRefused(Generate({}), "is not a regular file");
  std::filesystem::remove(path);
  WriteFile(dir_.File("model.safetensors.index.json"),
            R"({"weight_map": {"gpt_neox.embed_in.weight": "../../etc/passwd"}})");
  ExpectRefused(Generate({}), "'../../etc/passwd' is not a path below the model's folder");
}

TEST_F(BadInput, TokenizerFile) {
  const std::string path = dir_.File("tokenizer.json");
  WriteFile(path, kTokenizer);
  EXPECT_EQ(RunCommand(Prompted({"--prompt", "abba"}), kTimeout).exit_code, 0);
  ExpectRefused(Prompted({"--prompt", ""}), "the prompt is empty");
  ExpectRefused(Prompted({"--prompt", "abc"}), "tokenizer");
  ExpectRefused(Prompted({"--prompt", "a\xff"}), "not valid UTF-8");
  for (const char* text : {"", "{", "[]", "{\"model\": {\"type\": \"Unigram\"}}"}) {
    WriteFile(path, text);
    ExpectRefused(Generate({}), "tokenizer.json");
  }
  std::filesystem::remove(path);
  std::filesystem::create_symlink("tokenizer.json", path);  // a circle
  ExpectRefused(Generate({}), "tokenizer.json");
}

TEST_F(BadInput, Layout) {
  ExpectRefused(Generate({"--stages", "0,5,8", "--pp", "2"}),
                "layer 5 (stage 1) reads the KV cache of layer 4");
  ExpectRefused(Generate({"--stages", "0,4,9", "--pp", "2"}), "--stages 0,4,9");
  ExpectRefused(Generate({"--stages", "0,x"}), "\"x\" is none");
  ExpectRefused(Generate({"--pp", "3"}), "the only legal cut is 4; expected 1 to 2");
  ExpectRefused(Generate({"--tp", "4"}), "--tp 4 does not divide");
  ExpectRefused(Generate({"--tp", "9223372036854775807"}), "--tp is 9223372036854775807");
  ExpectRefused(Generate({"--tp", "2"}), "2 ranks, but 1 process was launched");
}

TEST_F(BadInput, ServeAndClient) {
  for (const char* address : {"nonsense", "127.0.0.1", "127.0.0.1:99999", ":1"}) {
    ExpectRefused(Polystrate({"serve", "--model", dir_.path(), "--listen", address}),
                  absl::StrCat("\"", address, "\" is no address to listen on"));
  }
  ExpectRefused(Polystrate({"serve", "--model", dir_.path(), "--listen", "203.0.113.1:50051"}),
                "cannot listen on 203.0.113.1:50051");
  ExpectRefused(Polystrate({"serve", "--model", dir_.path(), "--drain_timeout", "-1"}),
                "--drain_timeout");
  ExpectRefused(Polystrate({"client", "--target", "nonsense", "--prompt", "a"}), "--target");
  ExpectRefused(Polystrate({"client", "--prompt", "a", "--prompt_ids", "1"}), "give one of");
  ExpectRefused(Polystrate({"client", "--prompt", "a", "--ready_timeout", "nan"}),
                "--ready_timeout");
  ExpectRefused(Polystrate({"client", "--prompt", "a", "--top_k", "4294967297"}), "--top_k is 42");
  ExpectRefused(Polystrate({"client", "--prompt", "a", "--max_tokens", "0"}), "--max_tokens is 0");
}

// Every rank exits with 2, so mpirun does, and only rank 0 says why.
TEST_F(BadInput, UnderMpirun) {
  ExpectRefusedByRanks(2, Generate({"--no_such_flag"}), "unknown flag --no_such_flag");
  ExpectRefusedByRanks(3, Generate({"--tp", "2"}), "2 ranks, but 3 processes were launched");
  ExpectRefusedByRanks(2, Generate({"--tp", "2", "--pp", "2"}), "4 ranks, but 2 processes were");
  ExpectRefusedByRanks(2, Generate({"--pp", "2", "--stages", "0,5,8"}), "layer 5 (stage 1) reads");
  ExpectRefusedByRanks(2, Generate({"--tp", "2", "--prompt_ids", "96"}), "prompt token id 96");
  for (const char* alone : {"convert", "bench"}) {
    ExpectRefusedByRanks(2, Polystrate({alone, "--help"}),
                         absl::StrCat(alone, " is done by one process, but 2 were launched"));
  }
}

// One mpirun line that starts rank 0 well and rank 1 otherwise, as machines that differ do.
TEST_F(BadInput, OneRankDiffers) {
  const auto two = [&](const CommandLine& second) {
    CommandLine line = Mpirun(1, Generate({"--pp", "2"}));
    const CommandLine rest = Generate(second);
    line.insert(line.end(), {":", "-np", "1"});
    line.insert(line.end(), rest.begin(), rest.end());
    return line;
  };
  ExpectRefused(two({"--pp", "2", "--model", "/nonexistent"}), "rank 1: /nonexistent/config.json");
  ExpectRefused(two({"--pp", "2", "--kv_memory", "8192"}), "same flags, model and binary");
  ExpectRefused(two({"--pp", "2", "--prefill_skip=false"}), "same flags, model and binary");
  ExpectRefused(two({"--tp", "2"}), "same flags, model and binary");
  EXPECT_TRUE(AllGone(dir_.path(), absl::Seconds(10)));
}

// Only rank 1 has layers 4 to 7, so only it can know.
TEST_F(BadInput, WeightsOfAnotherRank) {
  const auto edited = [&](auto edit) {
    TinyModelSpec spec = Spec();
    spec.edit = [&](std::vector<StoredTensor>* tensors) {
      for (size_t i = 0; i < tensors->size(); ++i) {
        if (!absl::StrContains((*tensors)[i].name, "layers.5.mlp.dense_h_to_4h.weight")) continue;
        edit(tensors, i);
        return;
      }
      FAIL() << "no such tensor";
    };
    WriteTinyModel(dir_.path(), spec);
  };
  edited([](auto* tensors, size_t i) { tensors->erase(tensors->begin() + i); });
  ExpectRefusedByRanks(2, Generate({"--pp", "2"}),
                       "tensor 'gpt_neox.layers.5.mlp.dense_h_to_4h.weight' is missing");
  edited(
      [](auto* tensors, size_t i) { std::swap((*tensors)[i].shape[0], (*tensors)[i].shape[1]); });
  ExpectRefusedByRanks(2, Generate({"--pp", "2"}),
                       "has shape [48, 100]; by config.json it should be [100, 48]");
}

TEST_F(BadInput, ALostResultIsAnError) {
  for (const char* redirect : {">/dev/full", ">&-"}) {
    CommandLine command = {"sh", "-c", absl::StrCat("\"$@\" ", redirect), "sh"};
    const CommandLine generate = Generate({});
    command.insert(command.end(), generate.begin(), generate.end());
    const CommandResult result = RunCommand(command, kTimeout);
    EXPECT_EQ(result.exit_code, 1) << redirect;
    EXPECT_TRUE(absl::StrContains(result.err, "cannot write to standard output")) << result.err;
  }
}

// Names that scripts and shells trip over.
TEST_F(BadInput, OddPathsWork) {
  const std::string link = dir_.File("ein Pfad mit Ümläuten 'and' \"quotes\"");
  std::filesystem::create_directory_symlink(dir_.path(), link);
  for (const std::string& model : {link, link + "/", link + "//."}) {
    EXPECT_EQ(RunCommand(Generate({"--model", model}), kTimeout).exit_code, 0) << model;
  }
}

}  // namespace
}  // namespace polystrate
