// EngineView: what a coordinator knows of an engine, for the status page and the metrics.
#pragma once

#include "openengine_control.pb.h"
#include "polystrate_admin.pb.h"
#include "polystrate_coordinator.pb.h"

namespace polystrate {

// As it was told last, also of an engine that is lost.
struct EngineView {
  v1::EngineStatus status;
  openengine::v1::LoadInfo load;
  openengine::v1::ServerInfo server;
  openengine::v1::ModelInfo model;
  v1::GetStagesResponse stages;  // empty where an engine does not tell
};

}  // namespace polystrate
