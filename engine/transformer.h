// The decoder layers of one stage: the only place that knows how a layer is put together.
#pragma once

#include "absl/types/span.h"
#include "engine/activations.h"
#include "engine/kv_cache.h"
#include "engine/model_config.h"
#include "engine/step_inputs.h"
#include "engine/weights.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace polystrate {

// What a layer needs beside its inputs; const during a step, owned by PipelineStage.
struct TransformerContext {
  const Stream& stream;
  Communicator& tp;
  const ModelConfig& config;
  const StageWeights& weights;
  const KvCache& kv_cache;
  const RopeTable& rope;
};

// The model's kind of norm; what is normed becomes itself + add first unless add is empty.
NormOptions NormOf(const ModelConfig& config, const NormWeights& weights, const Tensor& add = {});

// Layers that follow each other, on this rank's heads and MLP rows, in place on a.hidden, whose
// tensors are the step's rows. Where ranks have parts of what one adds to its x, their sum is added
// as the next one takes its norm.
//   parallel residual (GPT-NeoX, Black et al. 2022, arXiv:2204.06745): x + Attention(N1 x) +
//   MLP(N2 x), one all-reduce;
//   sequential (Llama, Touvron et al. 2023, arXiv:2302.13971): x += Attention(N1 x), then x +=
//   MLP(N2 x), two.
void DecoderLayers(const TransformerContext& context, absl::Span<const LayerWeights> layers,
                   const StepInputs& inputs, const Activations& a);

// One layer in two parts, for a step that goes on with fewer rows than it wrote K and V for: first
// an owner's keys and values of every row to the cache (a.hidden is only read), then all the rest,
// for rows whose keys and values the cache holds.
void WriteKeysAndValues(const TransformerContext& context, const LayerWeights& layer,
                        const StepInputs& inputs, const Activations& a);
void DecoderLayerFromQuery(const TransformerContext& context, const LayerWeights& layer,
                           const StepInputs& inputs, const Activations& a);

}  // namespace polystrate
