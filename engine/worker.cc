#include "engine/worker.h"

namespace polystrate {

namespace {

void FinishStep(ControlChannel& control, PipelineStage& stage) {
  if (const auto result = stage.Finish()) control.SendResult(result->ToBytes());
}

}  // namespace

void RunWorker(ControlChannel& control, PipelineStage& stage) {
  while (true) {
    // A GPU gets its next step before it has done the last, if that is here already.
    while (stage.num_pending() > 0 &&
           !(stage.num_pending() == 1 && stage.launches_ahead() && control.PlanHasArrived())) {
      FinishStep(control, stage);
    }
    const StepPlan plan = StepPlan::FromBytes(control.ReceivePlan());
    if (plan.stop) break;
    stage.Launch(plan);
  }
  while (stage.num_pending() > 0) FinishStep(control, stage);
}

}  // namespace polystrate
