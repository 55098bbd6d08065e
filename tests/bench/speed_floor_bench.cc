// The speed of the operators against the machine's own limits, for the shapes of Pythia-160M in
// bfloat16 with random weights: one decoded token and a 512-token prefill, layer by layer as the
// engine runs them. Prints medians with their spread; passes no judgement.
//
//   speed_floor_bench [num_threads=2] [context of the decoded token=128]
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/machine_limits.h"
#include "kernels/ops.h"

namespace polystrate {
namespace {

constexpr int64_t kHidden = 768, kLayers = 12, kHeads = 12, kIntermediate = 3072, kVocab = 50304;
constexpr int kHeadDim = kHidden / kHeads, kRotaryDim = 16;
constexpr int64_t kPrefill = 512, kMaxContext = 2048, kBlockSize = 16;
constexpr DType kT = DType::kBFloat16;

struct Layer {
  OwnedTensor norm_weight{DType::kFloat32, {kHidden}};
  OwnedTensor norm_bias{DType::kFloat32, {kHidden}};
  OwnedTensor qkv{kT, {3 * kHidden, kHidden}};
  OwnedTensor qkv_bias{DType::kFloat32, {3 * kHidden}};
  OwnedTensor dense{kT, {kHidden, kHidden}};
  OwnedTensor up{kT, {kIntermediate, kHidden}};
  OwnedTensor up_bias{DType::kFloat32, {kIntermediate}};
  OwnedTensor down{kT, {kHidden, kIntermediate}};
  OwnedTensor key{kT, {kMaxContext / kBlockSize, kHeads, kBlockSize, kHeadDim}};
  OwnedTensor value{kT, {kMaxContext / kBlockSize, kHeads, kBlockSize, kHeadDim}};
};

class Model {
 public:
  Model() : layers_(kLayers) {
    for (int32_t i = 0; i < kMaxContext; ++i) {
      (*ids_).data<int32_t>()[i] = i * 7 % kVocab;
      (*positions_).data<int32_t>()[i] = i;
    }
    for (int32_t i = 0; i < kMaxContext / kBlockSize; ++i) (*table_).data<int32_t>()[i] = i;
    FillRopeTable(RopeFrequencies(10000.0, kRotaryDim), 1.0f, rope());
  }

  // `tokens` new tokens after `context - tokens` cached ones, and the logits of the last.
  void Forward(const Stream& stream, int64_t tokens, int64_t context) {
    int32_t cu[2] = {0, static_cast<int32_t>(tokens)}, len = static_cast<int32_t>(context);
    const AttentionBatch batch = {Tensor(cu, DType::kInt32, Device{}, {2}),
                                  Tensor(&len, DType::kInt32, Device{}, {1}), *table_};
    const Tensor hidden = (*hidden_).Rows(0, tokens);
    EmbeddingLookup(stream, (*ids_).Rows(0, tokens), *embedding_, 0, hidden);
    for (const Layer& layer : layers_) RunLayer(stream, layer, tokens, context, batch);
    const Tensor last = hidden.Rows(tokens - 1, 1), normed = (*normed_).Rows(0, 1);
    LayerNorm(stream, last, *layers_[0].norm_weight, *layers_[0].norm_bias, 1e-5f, normed);
    TimedGemm(stream, normed, *lm_head_, Tensor(), *logits_, {});
  }

  // Weights and cache read for one decoded token.
  static double BytesPerToken(int64_t context) {
    const double weights = kLayers * (4.0 * kHidden * kHidden + 2.0 * kHidden * kIntermediate) +
                           static_cast<double>(kVocab) * kHidden;
    return 2.0 * (weights + 2.0 * kLayers * static_cast<double>(context) * kHidden);
  }
  static double LayerOperations(int64_t tokens) {
    return 2.0 * static_cast<double>(tokens) * kLayers *
           (4.0 * kHidden * kHidden + 2.0 * kHidden * kIntermediate);
  }
  // Causal: half of the square.
  static double AttentionOperations(int64_t tokens) {
    return 2.0 * kLayers * kHidden * static_cast<double>(tokens) * static_cast<double>(tokens + 1);
  }
  double attention_seconds() const { return attention_seconds_; }
  double gemm_seconds() const { return gemm_seconds_; }
  void ResetClocks() { attention_seconds_ = gemm_seconds_ = 0.0; }

 private:
  RopeTable rope() const { return {*rope_, kRotaryDim}; }

  void RunLayer(const Stream& stream, const Layer& layer, int64_t tokens, int64_t context,
                const AttentionBatch& batch) {
    const Tensor hidden = (*hidden_).Rows(0, tokens), normed = (*normed_).Rows(0, tokens);
    const Tensor qkv = (*qkv_).Rows(0, tokens), mixed = (*mixed_).Rows(0, tokens);
    const Tensor up = (*up_).Rows(0, tokens), sum = (*sum_).Rows(0, tokens);
    const Tensor query = qkv.Columns(0, kHidden), key = qkv.Columns(kHidden, kHidden);
    const Tensor value = qkv.Columns(2 * kHidden, kHidden);
    const Tensor positions = (*positions_).Rows(context - tokens, tokens);
    const KvSlot slot = {*layer.key, *layer.value};
    LayerNorm(stream, hidden, *layer.norm_weight, *layer.norm_bias, 1e-5f, normed);
    TimedGemm(stream, normed, *layer.qkv, *layer.qkv_bias, qkv, {});
    RotateAndStoreKv(stream, rope(), positions, kHeadDim, /*rotate_key=*/true, query, key, value,
                     positions, slot);
    AttentionOptions options;
    options.head_dim = kHeadDim;
    options.scale = 0.125f;
    const double start = Now();
    PagedAttention(stream, query, slot, batch, options, mixed);
    attention_seconds_ += Now() - start;
    TimedGemm(stream, mixed, *layer.dense, *layer.norm_bias, sum, {});
    LayerNorm(stream, hidden, *layer.norm_weight, *layer.norm_bias, 1e-5f, normed);
    TimedGemm(stream, normed, *layer.up, *layer.up_bias, up, {Activation::kGelu});
    TimedGemm(stream, up, *layer.down, *layer.norm_bias, sum, {.accumulate = true});
    AddInPlace(stream, sum, hidden);
  }

  void TimedGemm(const Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 const Tensor& out, const GemmOptions& options) {
    const double start = Now();
    Gemm(stream, x, weight, bias, out, options);
    gemm_seconds_ += Now() - start;
  }

  std::vector<Layer> layers_;
  OwnedTensor embedding_{kT, {kVocab, kHidden}}, lm_head_{kT, {kVocab, kHidden}};
  OwnedTensor rope_{DType::kFloat32, {kMaxContext, kRotaryDim}};
  OwnedTensor ids_{DType::kInt32, {kMaxContext}}, positions_{DType::kInt32, {kMaxContext}};
  OwnedTensor table_{DType::kInt32, {1, kMaxContext / kBlockSize}};
  OwnedTensor hidden_{DType::kFloat32, {kPrefill, kHidden}}, normed_{kT, {kPrefill, kHidden}};
  OwnedTensor qkv_{kT, {kPrefill, 3 * kHidden}}, mixed_{kT, {kPrefill, kHidden}};
  OwnedTensor up_{kT, {kPrefill, kIntermediate}}, sum_{DType::kFloat32, {kPrefill, kHidden}};
  OwnedTensor logits_{DType::kFloat32, {1, kVocab}};
  double attention_seconds_ = 0.0, gemm_seconds_ = 0.0;
};

void Print(const char* what, const Timing& t, double amount, double unit, const char* unit_name,
           double limit) {
  std::printf("%-20s %8.3f ms (10%%..90%%: %.3f..%.3f)  %8.2f %s = %.0f%% of the limit\n", what,
              t.median * 1e3, t.fastest * 1e3, t.slowest * 1e3, amount / t.median / unit, unit_name,
              100.0 * amount / t.median / limit);
}

void Main(int num_threads, int64_t context) {
  const Stream stream = Stream::Cpu(num_threads);
  const double bandwidth = MeasureReadBandwidth(num_threads);
  const double float32_rate = MeasureMatrixRate(stream, DType::kFloat32);
  const double bfloat16_rate = MeasureMatrixRate(stream, DType::kBFloat16);
  std::printf("%d threads; limits: read %.1f GB/s, matrix float32 %.3f, bfloat16 %.3f TFLOP/s\n",
              num_threads, bandwidth / kGiga, float32_rate / kTera, bfloat16_rate / kTera);
  Model model;
  constexpr int kDecodeRepetitions = 31, kPrefillRepetitions = 11;
  const Timing decode = Time(kDecodeRepetitions, [&] { model.Forward(stream, 1, context); });
  Print("decode, batch 1", decode, Model::BytesPerToken(context), kGiga, "GB/s", bandwidth);
  std::printf(
      "%-20s %.1f tokens/s at context %lld, %.0f MB per token; GEMM %.2f ms, attention "
      "%.2f ms (means)\n",
      "", 1.0 / decode.median, static_cast<long long>(context), Model::BytesPerToken(context) / 1e6,
      model.gemm_seconds() / (kDecodeRepetitions + 1) * 1e3,
      model.attention_seconds() / (kDecodeRepetitions + 1) * 1e3);
  const double operations = Model::LayerOperations(kPrefill) + Model::AttentionOperations(kPrefill);
  model.ResetClocks();
  const Timing prefill =
      Time(kPrefillRepetitions, [&] { model.Forward(stream, kPrefill, kPrefill); });
  Print("prefill, 512 tokens", prefill, operations, kTera, "TFLOP/s", bfloat16_rate);
  const double gemm = model.gemm_seconds() / (kPrefillRepetitions + 1);
  const double attention = model.attention_seconds() / (kPrefillRepetitions + 1);
  std::printf(
      "%-20s %.0f tokens/s; GEMM %.1f ms, %.3f TFLOP/s; attention %.1f ms, %.3f TFLOP/s = "
      "%.0f%% of the float32 limit\n",
      "", kPrefill / prefill.median, gemm * 1e3, Model::LayerOperations(kPrefill) / gemm / kTera,
      attention * 1e3, Model::AttentionOperations(kPrefill) / attention / kTera,
      100.0 * Model::AttentionOperations(kPrefill) / attention / float32_rate);
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int64_t context = argc > 2 ? std::atoi(argv[2]) : 128;
  if (num_threads < 1 || context < 1 || context > 2048) {
    std::fprintf(stderr, "usage: speed_floor_bench [num_threads] [context, 1 to 2048]\n");
    return 2;
  }
  polystrate::Main(num_threads, context);
  return 0;
}
