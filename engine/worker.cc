#include "engine/worker.h"

#include <thread>

namespace polystrate {

namespace {

void FinishStep(ControlChannel& control, PipelineStage& stage) {
  if (const auto result = stage.Finish()) control.SendResult(result->ToBytes());
}

// A GPU gets its next step before it has done the last, whenever that comes.
bool TakesAnother(ControlChannel& control, PipelineStage& stage) {
  if (stage.num_pending() == 0) return true;
  return stage.num_pending() == 1 && stage.launches_ahead() && control.PlanHasArrived();
}

}  // namespace

void RunWorker(ControlChannel& control, PipelineStage& stage) {
  while (true) {
    while (!TakesAnother(control, stage)) {
      const bool may_come = stage.num_pending() == 1 && stage.launches_ahead();
      if (may_come && !stage.CanFinish()) {
        std::this_thread::yield();
      } else {
        FinishStep(control, stage);
      }
    }
    const StepPlan plan = StepPlan::FromBytes(control.ReceivePlan());
    if (plan.stop) break;
    stage.Launch(plan);
  }
  while (stage.num_pending() > 0) FinishStep(control, stage);
}

}  // namespace polystrate
