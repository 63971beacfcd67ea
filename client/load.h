#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "client/options.h"

namespace tessera {

// One request of a benchmark: what to send, and when.
struct LoadRequest {
  std::vector<int32_t> prompt_ids;
  uint32_t output_tokens = 0;
  uint64_t seed = 0;
  std::chrono::duration<double> arrival{0};  // after the start; 0 in a closed loop
};

// How one request fared. Times in milliseconds, from the moment it was due.
struct LoadResult {
  std::string status = "OK";  // gRPC code's name
  int output_tokens = 0;
  int cached_tokens = 0;
  double ttft_ms = 0;
  double e2e_ms = 0;
  std::vector<double> itl_ms;  // gaps between messages after the first
};

// Random prompts over token ids [first_id, vocab_size), the same for the same options.
std::vector<LoadRequest> MakeLoad(const BenchOptions& options, int32_t first_id,
                                  int32_t vocab_size);

// Sends the load, at most options.bench.concurrency at a time in a closed loop, and shows progress
// on a terminal. results[i] belongs to load[i].
std::vector<LoadResult> SendLoad(const Options& options, const std::vector<LoadRequest>& load);

}  // namespace tessera
