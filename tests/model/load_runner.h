#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "model/model_runner.h"
#include "tests/support/temp_file.h"

namespace tessera {

// A runner of the GGUF file with these bytes.
inline std::unique_ptr<ModelRunner> LoadRunner(std::string_view bytes,
                                               std::unique_ptr<Backend> backend,
                                               const ModelRunnerOptions& options) {
  const TempFile path(bytes);
  const auto file = GgufFile::Open(path.path());
  CHECK(file.ok()) << file.status();
  auto runner = ModelRunner::Load(**file, std::move(backend), options);
  CHECK(runner.ok()) << runner.status();
  return *std::move(runner);
}

}  // namespace tessera
