#include "engine/worker.h"

namespace polystrate {

void RunWorker(ControlChannel& control, PipelineStage& stage) {
  while (true) {
    const StepPlan plan = StepPlan::FromBytes(control.ReceivePlan());
    if (plan.stop) return;
    if (const auto result = stage.Run(plan)) control.SendResult(result->ToBytes());
  }
}

}  // namespace polystrate
