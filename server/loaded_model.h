#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "model/model_runner.h"
#include "model/tokenizer.h"
#include "server/options.h"
#include "server/serving_context.h"

namespace tessera {

// A model file made ready to run.
struct LoadedModel {
  std::unique_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<ModelRunner> runner;
  ServedModel description;
};

// Reads the file that the options name onto the device that they name. A bad file or a device that
// is not there is a status that says what was expected.
absl::StatusOr<LoadedModel> LoadModel(const ServerOptions& options);

}  // namespace tessera
