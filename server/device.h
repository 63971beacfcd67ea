#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/gguf.h"
#include "server/options.h"

namespace tessera {

// Where a model is computed.
struct ServingDevice {
  std::unique_ptr<Backend> backend;
  bool is_cuda = false;
  // From so many on, rows cost about the same each: a longer step gains little and delays tokens.
  int efficient_step_rows = 128;
  // As ModelRunnerOptions::device_bytes_for_pages: what --gpu-memory-utilization leaves.
  std::function<uint64_t()> bytes_for_pages;
};

// The device that the options name; `auto` is the first GPU that works, or else the CPU.
absl::StatusOr<ServingDevice> OpenServingDevice(const ServerOptions& options);

// Whether the model's shapes have kernels and its weights find room.
absl::Status CheckServes(const ServingDevice& device, const GgufFile& file);

}  // namespace tessera
