// The engine over emulated NCCL: ranks of a stage look their shares of the vocabulary up by tokens
// that none of their hosts knows yet.

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

// As on a GPU: what is enqueued runs while the host goes on.
const bool kStreamsRun = setenv("POLYSTRATE_EMULATED_STREAMS", "threads", 1) == 0;

TEST(EngineOverNccl, SaysWhatTheCpuSays) {
  TempDir dir;
  TinyModelSpec spec;
  spec.vocab_size = 96;
  spec.reuse_keys = "post_rope";
  WriteTinyModel(dir.path(), spec);
  std::vector<GenerationRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = RandomTokens(3 + 4 * static_cast<int64_t>(i), 96, i);
    requests[i].max_tokens = 3 + static_cast<int64_t>(i);
    requests[i].ignore_eos = true;
    requests[i].sampling = {.temperature = i == 1 ? 1.0 : 0.0, .seed = 3};
  }
  LocalEngineOptions options;
  options.block_size = 4;
  const std::vector<LocalOutput> expected = RunLocalEngine(dir.path(), options, requests).outputs;
  options.device = DeviceType::kCuda;
  options.nccl = true;
  struct Cut {
    int tp_size, pp_size;
    bool async, graphs;
  };
  for (const Cut& cut : {Cut{2, 1, true, true}, Cut{2, 1, false, true}, Cut{2, 1, true, false},
                         Cut{2, 2, true, true}}) {
    SCOPED_TRACE(testing::Message() << "tp " << cut.tp_size << " pp " << cut.pp_size << " async "
                                    << cut.async << " graphs " << cut.graphs);
    options.tp_size = cut.tp_size;
    options.pp_size = cut.pp_size;
    options.async_scheduling = cut.async;
    options.graphs = cut.graphs;
    const std::vector<LocalOutput> got = RunLocalEngine(dir.path(), options, requests).outputs;
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(got[i].token_ids, expected[i].token_ids) << "request " << i;
    }
  }
}

}  // namespace
}  // namespace polystrate
