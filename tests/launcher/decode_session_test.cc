#include "launcher/decode_session.h"

#include <gtest/gtest.h>

#include <functional>

#include "engine/architecture.h"
#include "engine/paper_variants.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

// MLKV-12 with less of everything that takes time: 3 KV heads, layers 0 and 2 of 4 own.
ModelConfig SmallConfig() {
  ModelConfig config = MlkvVariants()[4].config;
  config.vocab_size = 200;
  config.num_layers = 4;
  config.head_dim = 16;
  config.hidden_size = 192;
  config.intermediate_size = 101;
  config.rotary_dim = 4;
  config.max_position_embeddings = 128;
  config.sharing = *KvSharing::Mlkv(4, 2);
  return config;
}
constexpr int64_t kBytesPerToken = 2 * 2 * 3 * 16 * 2;  // K and V, owners, heads, head_dim, bytes

class DecodeSessionTest : public testing::Test {
 protected:
  std::unique_ptr<DecodeSession> Start(int64_t num_sequences, DType dtype = DType::kBFloat16) {
    DecodeOptions options;
    options.dtype = dtype;
    options.sequence_len = 40;  // 3 blocks of 16
    options.kv_memory = num_sequences * 48 * kBytesPerToken * SizeOf(dtype) / 2;
    auto session = DecodeSession::Create(SmallConfig(), options, &stream_);
    CHECK(session.ok());
    return *std::move(session);
  }

  Stream stream_ = Stream::Cpu(1);
};

std::vector<std::vector<int32_t>> Decode(DecodeSession& session, int64_t num_sequences) {
  session.Begin(num_sequences, /*context=*/30);
  std::vector<std::vector<int32_t>> steps;
  for (int step = 0; step < 8; ++step) {  // into the third block
    EXPECT_GT(session.Step(/*advance=*/true), 0);
    steps.push_back(session.tokens());
  }
  return steps;
}

TEST_F(DecodeSessionTest, AdmitsAsManyAsThePoolHolds) {
  EXPECT_EQ(Start(1)->max_sequences(), 1);
  EXPECT_EQ(Start(5)->max_sequences(), 5);
}

TEST_F(DecodeSessionTest, RefusesAPoolWithoutASequence) {
  DecodeOptions options;
  options.sequence_len = 40;
  options.kv_memory = 2 * 16 * kBytesPerToken;
  EXPECT_TRUE(Fails(DecodeSession::Create(SmallConfig(), options, &stream_).status(),
                    absl::StatusCode::kInvalidArgument, "holds no sequence of 40 tokens"));
}

// Each sequence reads its own random context: its tokens are the same alone and among others, and
// differ from its neighbours'.
TEST_F(DecodeSessionTest, SequencesDecodeWhatTheyWouldAlone) {
  const auto session = Start(5, DType::kFloat32);
  const auto alone = Decode(*session, 1);
  const auto together = Decode(*session, 5);
  EXPECT_EQ(Decode(*session, 5), together);
  bool differ = false;
  for (size_t step = 0; step < alone.size(); ++step) {
    EXPECT_EQ(together[step][0], alone[step][0]);
    differ |= together[step][0] != together[step][1];
  }
  EXPECT_TRUE(differ);
}

TEST_F(DecodeSessionTest, ARepeatedStepMovesNothing) {
  const auto session = Start(2);
  session->Begin(2, 30);
  const std::vector<int32_t> before = session->tokens();
  session->Step(/*advance=*/false);
  EXPECT_EQ(session->tokens(), before);
  session->Step(/*advance=*/true);
  const std::vector<int32_t> after = session->tokens();
  session->Begin(2, 30);
  session->Step(/*advance=*/true);
  EXPECT_EQ(session->tokens(), after);
}

TEST_F(DecodeSessionTest, CountsAreThoseOfTheShapes) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    const auto session = Start(3, dtype);
    const int64_t kept = kBytesPerToken * SizeOf(dtype) / 2;
    EXPECT_EQ(session->kv_resident_bytes(), kept);
    EXPECT_EQ(session->kv_read_bytes(), 2 * kept);  // 4 layers read, 2 own
    session->Begin(3, 30);
    EXPECT_EQ(session->CountBytesWrittenPerToken(), kept);
    EXPECT_EQ(session->kv_projection_operations(), 2 * 2 * 2 * 3 * 16 * 192);
    // Query and output, 128 padded rows of the MLP and its way back, the LM head.
    EXPECT_EQ(session->matrix_operations(), 2 * (4 * (2 * 192 * 192 + 2 * 128 * 192) + 200 * 192) +
                                                session->kv_projection_operations());
    EXPECT_EQ(session->attention_operations(), 4 * 4 * 192);
    EXPECT_GT(session->weight_bytes(), SizeOf(dtype) * session->matrix_operations() / 2);
    EXPECT_LT(session->weight_bytes(), SizeOf(dtype) * session->matrix_operations() / 2 + 60000);
  }
}

TEST_F(DecodeSessionTest, TimesTheAttentionOfEveryLayer) {
  const auto session = Start(3);
  session->Begin(3, 30);
  const MemorySweep sweep(1, 1 << 20);
  for (const std::function<void()>& cold :
       {std::function<void()>(), std::function<void()>([&] { sweep.Read(); })}) {
    const std::vector<double> seconds = session->AttentionSeconds(3, cold);
    ASSERT_EQ(seconds.size(), 4u);
    for (double one : seconds) EXPECT_GT(one, 0);
  }
}

TEST_F(DecodeSessionTest, TimesPrompts) {
  DecodeOptions options;
  options.sequence_len = 40;
  options.kv_memory = 3 * 48 * kBytesPerToken;
  options.max_prompt_tokens = 3 * 40;
  const auto session = *DecodeSession::Create(SmallConfig(), options, &stream_);
  EXPECT_GT(session->Prefill(3, 40), 0);
  EXPECT_GT(session->Prefill(1, 1), 0);
  session->Begin(3, 30);
  EXPECT_GT(session->Step(/*advance=*/true), 0);
  // A prompt of one token is a token's step.
  EXPECT_EQ(session->PrefillOperations(1, 1),
            session->matrix_operations() + session->attention_operations());
  const double head = 2 * 200 * 192;
  EXPECT_EQ(session->PrefillOperations(2, 10), 2 * (10 * (session->matrix_operations() - head) +
                                                    head + 55 * session->attention_operations()));
}

// The same on a GPU, where the cache, the plans and the attention's tables are its own.
TEST(DecodeSessionOnAGpu, cuda) {
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  Stream gpu = *Stream::Cuda(0), cpu = Stream::Cpu(1);
  DecodeOptions options;
  options.dtype = DType::kFloat32;
  options.sequence_len = 40;
  options.kv_memory = 3 * 48 * kBytesPerToken * 2;
  options.max_prompt_tokens = 3 * 8;
  const auto session = *DecodeSession::Create(SmallConfig(), options, &gpu);
  const auto expected = *DecodeSession::Create(SmallConfig(), options, &cpu);
  EXPECT_EQ(Decode(*session, 3), Decode(*expected, 3));
  EXPECT_GT(session->Prefill(3, 8), 0);
  EXPECT_EQ(session->CountBytesWrittenPerToken(), 2 * kBytesPerToken);
  session->Begin(3, 30);
  const GpuSweep sweep(gpu, 1 << 20);
  for (double seconds : session->AttentionSeconds(1, [&] { sweep.Read(); })) EXPECT_GT(seconds, 0);
}

}  // namespace
}  // namespace polystrate
