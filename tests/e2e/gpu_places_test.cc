// --device cuda over several ranks, on emulated GPUs: who is said to have which, and what carries
// tensors between them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "tests/testing/emulated.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

using ::testing::HasSubstr;

class GpuPlaces : public ::testing::Test {
 protected:
  GpuPlaces() {
    TinyModelSpec spec;
    spec.num_kv_heads = 2;
    spec.reuse_keys = "post_rope";
    WriteTinyModel(dir_.path(), spec);
  }
  void SetUp() override {
    if (!EmulatorIsBuilt()) GTEST_SKIP() << "not built";
  }

  // Two ranks' first token, each with the same flags, on a host with that many GPUs.
  CommandResult Generate(int num_gpus, const CommandLine& flags) const {
    CommandLine command =
        OnEmulatedGpus(num_gpus, "polystrate_emulated",
                       {"generate", "--model", dir_.path(), "--prompt_ids", "5,6,7", "--max_tokens",
                        "1", "--threads", "1", "--kv_memory", "4194304", "--temperature", "0"});
    command.insert(command.end(), flags.begin(), flags.end());
    return RunCommand(Mpirun(2, command));
  }

  TempDir dir_;
};

TEST_F(GpuPlaces, RanksThatShareAGpuSpeakOverMpi) {
  const CommandResult result = Generate(1, {"--device", "cuda", "--tp", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("rank 0 (stage 0, tp 0) on "));
  EXPECT_THAT(result.err, HasSubstr("rank 1 (stage 0, tp 1) on "));
  EXPECT_THAT(result.err, HasSubstr("tensors go over MPI, through the host's memory: "));
  const CommandResult cpu = Generate(1, {"--tp", "2"});
  EXPECT_EQ(result.out, cpu.out);
}

TEST_F(GpuPlaces, RanksOfAHostTakeTurns) {
  const CommandResult result = Generate(2, {"--device", "cuda", "--pp", "2", "--comm", "mpi"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "GPU 0 ")) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "GPU 1 ")) << result.err;
  EXPECT_THAT(result.err, HasSubstr("tensors go over MPI, through the host's memory: as --comm"));
}

TEST_F(GpuPlaces, AGpuThatIsNotThereIsNamed) {
  const CommandResult result = Generate(2, {"--device", "cuda:2", "--pp", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("there is no GPU 2: the CUDA driver shows 2"));
}

TEST_F(GpuPlaces, RanksWithGpusOfTheirOwnSpeakOverNccl) {
  const CommandResult result = Generate(2, {"--device", "cuda", "--pp", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr(": GPU 0 emulated GPU, bus 0000:01:00.0, NCCL 2.28.9, "));
  EXPECT_THAT(result.err, HasSubstr(": GPU 1 emulated GPU, bus 0000:02:00.0, NCCL 2.28.9, "));
  EXPECT_THAT(result.err, HasSubstr("tensors go over NCCL: every rank has a GPU of its own"));
}

TEST_F(GpuPlaces, RanksThatShareAGpuCannotSpeakOverNccl) {
  const auto refused = [this](int num_gpus, const std::string& device, const std::string& why) {
    const CommandResult result =
        Generate(num_gpus, {"--device", device, "--tp", "2", "--comm", "nccl"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("--comm nccl: ranks 0 and 1 share GPU " + why));
    EXPECT_THAT(result.err,
                HasSubstr("NCCL takes one rank on each; start fewer ranks on that host, make more "
                          "of its GPUs visible (CUDA_VISIBLE_DEVICES), or use --comm mpi"));
  };
  refused(1, "cuda", "0 (emulated GPU, bus 0000:01:00.0)");
  refused(2, "cuda:1", "1 (emulated GPU, bus 0000:02:00.0)");
}

// Stages differ in what they hold, so the last has less room for the KV cache.
TEST_F(GpuPlaces, TheKvCacheGetsWhatGpusHaveLeft) {
  const auto generate = [this](int num_gpus, const std::string& share, const CommandLine& flags) {
    CommandLine arguments = {"generate",  "--model",
                             dir_.path(), "--prompt_ids",
                             "5,6,7",     "--max_tokens",
                             "2",         "--temperature",
                             "0",         "--max_num_seqs",
                             "2",         "--threads",
                             "1",         "--max_num_batched_tokens",
                             "16"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    if (!share.empty()) {
      for (const char* flag : {"--device", "cuda", "--gpu_memory_utilization"}) {
        arguments.push_back(flag);
      }
      arguments.push_back(share);
    }
    return RunCommand(Mpirun(2, OnEmulatedGpus(num_gpus, "polystrate_emulated", arguments)));
  };
  const std::string expected = generate(2, "", {"--pp", "2"}).out;
  for (const int num_gpus : {1, 2}) {
    const CommandResult result = generate(num_gpus, "0.6", {"--pp", "2"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, expected);
    EXPECT_THAT(result.err, HasSubstr("memory of rank 1's GPU: 0.6 of 1.00 GiB, 0."));
  }
  const CommandResult refused = generate(2, "0.1", {"--tp", "2"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("nothing of the GPU is left for the KV cache: 0.1 of 1.00"));
}

TEST_F(GpuPlaces, FlagsThatCannotBeAreRefused) {
  const auto refused = [this](const CommandLine& flags, const std::string& message) {
    const CommandResult result = Generate(2, flags);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr(message));
  };
  refused({"--pp", "2", "--comm", "nccl"}, "--comm nccl needs --device cuda");
  refused({"--pp", "2", "--comm", "ucx"}, "--comm is \"ucx\"; it takes auto, nccl or mpi");
  refused({"--pp", "2", "--nccl_timeout", "0"}, "--nccl_timeout is 0; it must be in [1, 3600]");
}

}  // namespace
}  // namespace polystrate
